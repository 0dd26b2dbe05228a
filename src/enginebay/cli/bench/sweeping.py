"""`bench CONFIG --sweep FILE`: each variant of one backend becomes a backend of its own, all in one result.

The variants are written into a config beside the results: it is what was measured, and can be measured again.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from enginebay.config.diagnostics import as_one_error, describe
from enginebay.config.models import BackendEntry
from enginebay.config.source import Source
from enginebay.errors import ConfigError

MAX_VARIANTS = 64
Values = Annotated[list[object], Field(min_length=1)]
Overrides = dict[str, object]


class SweepFile(BaseModel):
    """Either the product of the values of some keys, or a list of variants."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str | None = Field(default=None, description="What is varied; else --backend, else the config's own.")
    vary: dict[str, Values] | None = Field(default=None, description="Values of each key: every combination.")
    variants: dict[str, Overrides] | None = Field(default=None, description="Keys and their values, by a name.")

    @model_validator(mode="after")
    def _one_of_both(self) -> SweepFile:
        if (self.vary is None) == (self.variants is None):
            raise ValueError("give `vary` (every combination) or `variants` (a list), and not both")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    text: str
    """A config with an entry for each variant."""
    names: list[str]


def read_sweep(path: Path, config: Path, *, backend: str | None) -> Sweep:
    """Raises ConfigError for what is no sweep, or varies what is not a backend's own."""
    sweep = _read_file(path)
    document = _load(config)
    base = backend or sweep.backend or str(document.get("backend") or "reference")
    variants = _variants(sweep, base, file=path)
    if len(variants) > MAX_VARIANTS:
        raise ConfigError(f"{path} makes {len(variants)} variants", expected=f"at most {MAX_VARIANTS}")
    entries = cast("dict[str, object]", document.setdefault("backends", {}))
    entry = cast("Mapping[str, object]", entries.get(base) or {"kind": base})
    for name, overrides in variants.items():
        entries[name] = _with(entry, overrides, base=base, file=path)
    document["backend"] = next(iter(variants))
    return Sweep(text=_dumped(document, path), names=list(variants))


def _read_file(path: Path) -> SweepFile:
    values = _load(path)
    try:
        return SweepFile.model_validate(values)
    except ValidationError as error:
        raise as_one_error(describe(error, model=SweepFile, values=values, source=Source(str(path)))) from error


def _load(path: Path) -> dict[str, object]:
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(path)) from error
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"is no YAML: {error}", file=str(path)) from error
    if not isinstance(document, dict):
        raise ConfigError("has no map of keys", file=str(path))
    return cast("dict[str, object]", document)


def _variants(sweep: SweepFile, base: str, *, file: Path) -> dict[str, Overrides]:
    """By the name that they are measured under. Raises ConfigError where two would have the same."""
    if sweep.variants is not None:
        return {name: dict(overrides) for name, overrides in sweep.variants.items()}
    assert sweep.vary is not None, "one of both, as validated"
    variants: dict[str, Overrides] = {}
    for values in product(*sweep.vary.values()):
        overrides = dict(zip(sweep.vary, values, strict=True))
        name = f"{base} {', '.join(f'{_last(key)}={value}' for key, value in overrides.items())}"
        if name in variants:
            raise ConfigError(f"two variants are called {name!r}", file=str(file), expected="each value once")
        variants[name] = overrides
    return variants


def _last(key: str) -> str:
    return key.rpartition(".")[2]


def _with(entry: Mapping[str, object], overrides: Overrides, *, base: str, file: Path) -> dict[str, object]:
    """The entry with what a variant says instead; `kind` is told, since a variant's name is none."""
    varied: dict[str, object] = {"kind": base, **entry}
    for key, value in overrides.items():
        place, _, rest = key.partition(".")
        if place not in BackendEntry.model_fields or bool(rest) != (place in _MAPS):
            raise ConfigError(
                f"{key} is nothing that a backend can have for itself: the load is one for all variants",
                file=str(file),
                expected=f"{', '.join(f'{name}.KEY' for name in _MAPS)} or a key of an entry of `backends`",
            )
        if rest:
            varied[place] = {**cast("Mapping[str, object]", varied.get(place) or {}), rest: value}
        else:
            varied[place] = value
    return varied


_MAPS: Sequence[str] = ("engine", "options", "environment")


def _dumped(document: Mapping[str, object], sweep: Path) -> str:
    text = io.StringIO()
    yaml = YAML()
    yaml.representer.ignore_aliases = lambda data: True  # an anchor between variants would be hard to read
    yaml.dump(dict(document), text)
    return f"# Written by `enginebay bench --sweep {sweep.name}`.\n{text.getvalue()}"
