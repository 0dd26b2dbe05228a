"""In which modes an option of a plugin acts. One that is set where it would be dropped is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pydantic import BaseModel, JsonValue

    from enginebay.backend import Mode

_KEY = "modes"


def only_in(*modes: Mode) -> dict[str, JsonValue]:
    """For `Field(..., json_schema_extra=only_in("docker"))`. A field without it acts in every mode of its kind."""
    return {_KEY: list(modes)}


def unused_options(options: Any, mode: Mode) -> dict[str, tuple[Mode, ...]]:
    """The options that were given though this mode drops them, each with the modes in which it acts.

    options: an instance of a plugin's options_model.
    """
    model: BaseModel = options
    fields = type(model).model_fields
    acting = {name: _modes(fields[name].json_schema_extra) for name in sorted(model.model_fields_set)}
    return {name: modes for name, modes in acting.items() if modes is not None and mode not in modes}


def _modes(extra: object) -> tuple[Mode, ...] | None:
    if not isinstance(extra, dict):
        return None
    modes = cast("dict[str, tuple[Mode, ...]]", extra).get(_KEY)
    return None if modes is None else tuple(modes)
