"""What a constraint on the output becomes for llama-server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

import msgspec

from enginebay.errors import InvalidRequest, UnsupportedFeature
from enginebay.types import ResponseFormat


def constraint(wanted: ResponseFormat | None, *, backend: str) -> dict[str, object]:
    """Fields of /completion; /v1/chat/completions takes `grammar` too. Raises RequestError, field response_format."""
    if wanted is None or wanted.type == "text":
        return {}
    if wanted.type == "json_object":
        return {"json_schema": {}}
    if wanted.type == "json_schema":
        return {"json_schema": json_schema(wanted)}
    if wanted.type == "grammar":
        return {"grammar": _grammar(wanted.schema)}
    raise UnsupportedFeature(field="response_format", backend=backend, detail=f"no {wanted.type} constraint")


def with_named_schema(wanted: ResponseFormat | None) -> ResponseFormat | None:
    """For /v1/chat/completions, which looks for the schema inside an object, and without it constrains nothing."""
    if wanted is None or wanted.type != "json_schema":
        return wanted
    return replace(wanted, schema={"name": "answer", "schema": json_schema(wanted)})


def json_schema(wanted: ResponseFormat) -> Mapping[str, object]:
    """The bare schema, of one that is bare, in the OpenAI API's object with a name, or JSON text."""
    given = _decoded(wanted.schema)
    # `schema` is no keyword of a JSON schema: where it stands, it holds one.
    if isinstance(given, Mapping) and "schema" in given:
        given = _decoded(cast("Mapping[str, object]", given)["schema"])
    if not isinstance(given, Mapping):
        raise _invalid(f"a JSON schema is an object, not {'missing' if given is None else repr(given)}")
    return cast("Mapping[str, object]", given)


def _decoded(schema: object) -> object:
    if not isinstance(schema, str):
        return schema
    try:
        return msgspec.json.decode(schema)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise _invalid(f"the JSON schema is no JSON: {error}") from error


def _grammar(grammar: object) -> str:
    if not isinstance(grammar, str) or not grammar:
        raise _invalid("the grammar is missing: give its rules as text")
    return grammar


def _invalid(problem: str) -> InvalidRequest:
    return InvalidRequest(f"response_format: {problem}", field="response_format")
