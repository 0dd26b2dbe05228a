"""What a name in a config comes to: an entry of `backends`, or a bare kind, over the top level.

The rule: an entry's `engine` replaces the top-level `engine` key by key, where null goes back to the engine's own
default; an entry's `model` replaces the top-level one; an entry without `kind` has its name as kind; a name that is no
entry is a kind with nothing but the top level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enginebay.config.models import BackendEntry, Config
from enginebay.config.settings import EngineSettings
from enginebay.config.source import YamlPath


@dataclass(frozen=True, slots=True, kw_only=True)
class ResolvedBackend:
    name: str
    kind: str
    """As it was written: case and `-`/`_` do not matter yet."""
    model: str | None
    engine: EngineSettings
    entry: BackendEntry
    path: YamlPath
    """Where the entry stands in the file; empty for a bare kind."""

    def engine_path(self, setting: str) -> YamlPath:
        """Where the setting was given: in the entry or at the top level."""
        if self.path and setting in self.entry.engine.model_fields_set:
            return (*self.path, "engine", setting)
        return ("engine", setting)

    def path_of(self, key: Literal["kind", "mode", "options", "url", "replicas"]) -> YamlPath:
        return (*self.path, key)


def resolve_backend(config: Config, name: str | None = None) -> ResolvedBackend:
    """Return what `name`, else the config's own `backend`, comes to. Whether the kind exists is not asked here."""
    wanted = config.backend if name is None else name
    entry = config.backends.get(wanted)
    if entry is None:
        return ResolvedBackend(
            name=wanted, kind=wanted, model=config.model, engine=config.engine, entry=BackendEntry(), path=()
        )
    return ResolvedBackend(
        name=wanted,
        kind=entry.kind or wanted,
        model=entry.model or config.model,
        engine=_merged(config.engine, entry.engine),
        entry=entry,
        path=("backends", wanted),
    )


def entry_names(config: Config) -> tuple[str, ...]:
    """The names that can be asked for: every entry, and the config's `backend` where that is a bare kind."""
    names = tuple(config.backends)
    return names if config.backend in names else (config.backend, *names)


def _merged(outer: EngineSettings, inner: EngineSettings) -> EngineSettings:
    overrides = {key: getattr(inner, key) for key in inner.model_fields_set}
    return outer.model_copy(update=overrides)
