"""The JSON Schema (draft 2020-12) of configs, for editors. The loader is stricter: it also knows lines and names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from enginebay.config.models import Config

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def config_schema(options: Mapping[str, type[BaseModel]] | None = None) -> dict[str, Any]:
    """Return the schema. options: for each kind of backend the model of its `options:`."""
    schema: dict[str, Any] = {"$schema": DIALECT} | Config.model_json_schema() | {"title": "EngineBay config"}
    definitions: dict[str, Any] = schema["$defs"]
    entry = {"$ref": "#/$defs/BackendEntry"}
    named: dict[str, Any] = {}
    for kind, model in sorted((options or {}).items()):
        definitions.update(_options_definitions(kind, model))
        has_options = {"properties": {"options": {"$ref": f"#/$defs/{_definition(kind, 'options')}"}}}
        for spelling in dict.fromkeys((kind, kind.replace("_", "-"))):
            definitions["BackendEntry"].setdefault("allOf", []).append(
                {"if": {"properties": {"kind": {"const": spelling}}, "required": ["kind"]}, "then": has_options}
            )
            named[spelling] = {**entry, "if": {"not": {"required": ["kind"]}}, "then": has_options}
    schema["properties"]["backends"]["properties"] = named
    return schema


def _options_definitions(kind: str, model: type[BaseModel]) -> dict[str, Any]:
    """The model and all it refers to, under names that cannot meet those of another kind."""
    schema = model.model_json_schema(ref_template=f"#/$defs/{_definition(kind, '{model}')}")
    inner = {_definition(kind, name): definition for name, definition in schema.pop("$defs", {}).items()}
    return {**inner, _definition(kind, "options"): schema}


def _definition(kind: str, name: str) -> str:
    return f"{kind}.{name}"
