"""A section of a config with what a command line says instead, checked as the file is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from enginebay.config.diagnostics import as_one_error, describe
from enginebay.config.source import Source

Section = TypeVar("Section", bound=BaseModel)


def overridden(section: Section, changes: Mapping[str, object], *, path: str) -> Section:
    """path: the section's name, for errors. Raises ConfigError for what the file could not say either."""
    values = {name: getattr(section, name) for name in section.model_fields_set} | dict(changes)
    model = type(section)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise as_one_error(describe(error, model=model, values=values, source=Source(None), path=(path,))) from error
