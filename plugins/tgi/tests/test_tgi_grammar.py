"""The form of the output as TGI reads it, however it is given."""

from __future__ import annotations

import json
from typing import Any

import pytest

from enginebay.errors import InvalidRequest
from enginebay.types import Chat, GenerationRequest, Message, ResponseFormat, SamplingParams, Text
from enginebay_tgi.request_body import encode_request

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}}
PROMPTS = [Text("hi"), Chat((Message("user", "hi"),))]


def sent(prompt: Text | Chat, kind: Any, schema: object) -> object:
    asked = GenerationRequest(
        request_id="r",
        prompt=prompt,
        sampling=SamplingParams(max_tokens=1),
        response_format=ResponseFormat(type=kind, schema=schema),
    )
    body = json.loads(encode_request(asked, backend="tgi", adds_special_tokens=False))
    return body["response_format"] if isinstance(prompt, Chat) else body["parameters"]["grammar"]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    "schema", [SCHEMA, json.dumps(SCHEMA), {"name": "n", "schema": SCHEMA}, json.dumps({"name": "n", "schema": SCHEMA})]
)
def test_a_schema_is_sent_as_an_object_without_a_name(prompt: Text | Chat, schema: object) -> None:
    assert sent(prompt, "json_schema", schema) == {"type": "json", "value": SCHEMA}


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        ("regex", None), ("regex", ""), ("regex", {}), ("json_schema", None), ("json_schema", "{bad"),
        ("json_schema", "7"), ("json_schema", {"name": "n", "schema": None}), ("json_schema", "[" * 9999),
    ],
)  # fmt: skip
def test_what_is_no_schema_and_no_pattern_is_refused(prompt: Text | Chat, kind: str, schema: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        sent(prompt, kind, schema)
    assert caught.value.field == "response_format"
