"""A JSON schema as clients give it: bare, or inside the OpenAI API's object with a name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from enginebay.types import GenerationRequest


def bare(schema: object) -> object:
    """`schema` is no keyword of a JSON schema: where it stands, it holds one."""
    if isinstance(schema, Mapping) and "schema" in schema:
        return cast("Mapping[str, object]", schema)["schema"]
    return schema


def with_named_schema(request: GenerationRequest) -> GenerationRequest:
    """vLLM's server takes the form with a name only."""
    wanted = request.response_format
    if wanted is None or wanted.type != "json_schema" or bare(wanted.schema) is not wanted.schema:
        return request
    return replace(request, response_format=replace(wanted, schema={"name": "answer", "schema": wanted.schema}))
