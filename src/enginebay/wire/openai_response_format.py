"""`response_format` (OpenAI) and `structured_outputs` (vLLM) as one constraint on the output."""

from __future__ import annotations

from enginebay.errors import InvalidRequest, UnsupportedFeature
from enginebay.types import BackendInfo, Feature, ResponseFormat
from enginebay.wire.openai_tools import demand_known

_NAMED_SCHEMA = ("name", "description", "schema", "strict")


def response_format(
    wanted: dict[str, object] | None, structured_outputs: dict[str, object] | None, *, backend: BackendInfo
) -> ResponseFormat | None:
    """None where the output is free. Raises UnsupportedFeature under the name that the client used."""
    structured = _from_structured_outputs(structured_outputs)
    if structured is not None:
        if Feature.RESPONSE_FORMAT not in backend.capabilities:
            raise UnsupportedFeature(field="structured_outputs", backend=backend.name)
        if wanted is not None:
            raise InvalidRequest("give response_format or structured_outputs, not both", field="structured_outputs")
        return structured
    return _from_response_format(wanted)


def _from_response_format(wanted: dict[str, object] | None) -> ResponseFormat | None:
    if wanted is None or wanted == {"type": "text"}:
        return None
    if wanted == {"type": "json_object"}:
        return ResponseFormat(type="json_object")
    named = wanted.get("json_schema")
    if wanted.get("type") == "json_schema" and isinstance(named, dict):
        demand_known(wanted, ("type", "json_schema"), "response_format")
        demand_known(named, _NAMED_SCHEMA, "response_format.json_schema")  # pyright: ignore[reportUnknownArgumentType]
        return ResponseFormat(type="json_schema", schema=wanted["json_schema"])
    raise InvalidRequest(
        f"response_format of type {wanted.get('type')!r} is not understood: expected text, json_object, or "
        "json_schema with a json_schema object, and nothing else in it",
        field="response_format",
    )


def _from_structured_outputs(wanted: dict[str, object] | None) -> ResponseFormat | None:
    given = {name: value for name, value in (wanted or {}).items() if value is not None and value is not False}
    if not given:
        return None
    [name, *others] = given
    if others:
        raise InvalidRequest(f"structured_outputs asks for {name} and {others[0]}: one", field="structured_outputs")
    match name:
        case "json_object":
            return ResponseFormat(type="json_object")
        case "json":
            return ResponseFormat(type="json_schema", schema=given[name])
        case "regex":
            return ResponseFormat(type="regex", schema=given[name])
        case "grammar":
            return ResponseFormat(type="grammar", schema=given[name])
        case "choice":
            return ResponseFormat(type="choice", schema=given[name])
        case _:
            raise InvalidRequest(f"structured_outputs.{name} is not understood", field=f"structured_outputs.{name}")
