"""JSON Schemas (draft 2020-12) of the wire's bodies, made from the structs that parse and write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from enginebay.request_checks import (
    MAX_INTEGER,
    MAX_LOGIT_BIAS,
    MAX_REPETITION_PENALTY,
    MAX_SEED,
    MAX_TEMPERATURE,
    MIN_REPETITION_PENALTY,
)
from enginebay.wire.field_meanings import MEANINGS
from enginebay.wire.openai_chat_response import ChatResponse
from enginebay.wire.openai_completion_response import CompletionResponse
from enginebay.wire.openai_errors import ErrorBody
from enginebay.wire.openai_requests import ChatBody, CompletionBody, GenerateBody, TokenizeBody
from enginebay.wire.openai_responses import ModelEntry, ModelList
from enginebay.wire.openai_to_request import MAX_STOP_STRINGS

REQUESTS = (CompletionBody, ChatBody, TokenizeBody, GenerateBody)
REFERENCE = "#/components/schemas/{name}"
BODIES = (
    CompletionBody, ChatBody, TokenizeBody, GenerateBody, CompletionResponse, ChatResponse, ModelEntry, ModelList,
    ErrorBody,
)  # fmt: skip
Schema = dict[str, Any]

_COUNT = {"minimum": 0, "maximum": MAX_INTEGER}
_TOKEN_ID = {"minimum": 0, "maximum": MAX_INTEGER}
_BOUNDS: Mapping[str, Schema] = {
    "max_tokens": _COUNT,
    "max_completion_tokens": _COUNT,
    "min_tokens": _COUNT,
    "temperature": {"minimum": 0, "maximum": MAX_TEMPERATURE},
    "top_p": {"exclusiveMinimum": 0, "maximum": 1},
    "top_k": {"minimum": -1, "maximum": MAX_INTEGER},
    "min_p": {"minimum": 0, "maximum": 1},
    "presence_penalty": {"minimum": -2, "maximum": 2},
    "frequency_penalty": {"minimum": -2, "maximum": 2},
    "repetition_penalty": {"minimum": MIN_REPETITION_PENALTY, "maximum": MAX_REPETITION_PENALTY},
    "seed": {"minimum": -MAX_SEED, "maximum": MAX_SEED},
    "n": {"minimum": 1},
    "logprobs": _COUNT,
    "top_logprobs": _COUNT,
    "prompt_logprobs": _COUNT,
    "truncate_prompt_tokens": {"minimum": 1, "maximum": MAX_INTEGER},
    "priority": {"minimum": -MAX_INTEGER, "maximum": MAX_INTEGER},
    "stream_interval": {"minimum": 1},
}
"""What `request_checks` demands of the numbers, for those who read the schema."""


def components() -> dict[str, Schema]:
    """By name; they refer to each other as parts of an OpenAPI document."""
    _, schemas = msgspec.json.schema_components(BODIES, schema_hook=_anything, ref_template=REFERENCE)
    for body in REQUESTS:
        for name, schema in schemas[body.__name__]["properties"].items():
            schema["description"] = MEANINGS[name]
            if body is not TokenizeBody:
                _bound(name, schema)
    return schemas


def _anything(kind: type) -> Schema:
    if kind is object:
        return {"description": "Any JSON value."}
    raise NotImplementedError


def _bound(name: str, schema: Schema) -> None:
    for alternative in schema.get("anyOf", [schema]):
        match alternative.get("type"):
            case "integer" | "number":
                alternative.update(_BOUNDS.get(name, {}))
            case "string" if name == "stop":
                alternative["minLength"] = 1
            case "array" if name == "stop":
                alternative["maxItems"] = MAX_STOP_STRINGS
                alternative["items"]["minLength"] = 1
            case "array" if name == "stop_token_ids":
                alternative["items"].update(_TOKEN_ID)
            case "array" if name == "messages":
                alternative["minItems"] = 1
            case "object" if name == "logit_bias":
                alternative["propertyNames"] = {"pattern": "^[0-9]{1,18}$"}
                alternative["additionalProperties"] = {
                    "type": "number", "minimum": -MAX_LOGIT_BIAS, "maximum": MAX_LOGIT_BIAS
                }  # fmt: skip
            case _:
                continue
