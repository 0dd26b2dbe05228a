"""The OpenAPI 3.1 document. Bodies come from the structs of the wire form; here are the paths around them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from enginebay import __version__
from enginebay.quantities import SIMULATED_HEADER
from enginebay.wire.deadline_header import DEADLINE_HEADER, MAX_DEADLINE_MS
from enginebay.wire.openai_errors import TABLE
from enginebay.wire.openai_responses import encode
from enginebay.wire.openai_schemas import REFERENCE, Schema, components

JSON = "application/json"
_DETAIL: Schema = {"type": "object", "required": ["detail"], "properties": {"detail": {"type": "string"}}}
_STATUS: Schema = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": {"type": "string"}, "reason": {"type": "string"}},
}
_EVENT: Schema = {
    "type": "object",
    "description": "One server-sent event: its data is a JSON object, of the last one `[DONE]`.",
    "required": ["data"],
    "properties": {"data": {"type": "string"}},
}
_TOKENS: Schema = {
    "type": "object",
    "required": ["count", "tokens"],
    "properties": {
        "count": {"type": "integer"},
        "max_model_len": {"type": ["integer", "null"]},
        "tokens": {"type": "array", "items": {"type": "integer"}},
        "token_strs": {"type": "null"},
    },
}
_EXAMPLES: Mapping[str, Schema] = {
    "ChatBody": {"model": "assistant", "messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 64},
    "CompletionBody": {"model": "assistant", "prompt": "Once upon a time", "max_tokens": 64},
    "TokenizeBody": {"model": "assistant", "prompt": "Hello!"},
    "GenerateBody": {"model": "assistant", "prompt": "Once upon a time", "max_tokens": 64},
}
_DESCRIPTION = (
    "An OpenAI-compatible API in front of engines that serve language models. Every route takes the header "
    "`x-request-id`: it comes back in the answer, goes to the engine and stands in the log; one is made where none is "
    "sent. A server with API keys takes them as `Authorization: Bearer KEY`. "
    f"Routes that generate take `{DEADLINE_HEADER}`: milliseconds that the whole answer may take, from the "
    f"arrival of the request, 1 to {MAX_DEADLINE_MS}. Answers that are made up carry `{SIMULATED_HEADER}: 1`."
)


@cache
def document_json() -> bytes:
    return encode(document())


def document() -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "EngineBay",
            "version": __version__,
            "description": _DESCRIPTION,
        },
        "paths": _paths(),
        "components": {
            "schemas": components(),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _paths() -> dict[str, Any]:
    chat, text, said = _answer("ChatResponse", streams=True), _answer("CompletionResponse", streams=True), _said()
    model = _parameter("model", "path", {"type": "string"})
    query = _query_of("GenerateBody")
    return {
        "/v1/chat/completions": {"post": _operation("Answer a conversation", chat, body="ChatBody")},
        "/v1/completions": {"post": _operation("Continue a text", text, body="CompletionBody")},
        "/v1/models": {"get": _operation("The models that this client may use", _answer("ModelList"))},
        "/v1/models/{model}": {"get": _operation("One model", _answer("ModelEntry"), parameters=[model])},
        "/tokenize": {
            "post": _operation("Token ids as the engine would see them", _content(_TOKENS), body="TokenizeBody")
        },
        "/generate": {
            "post": _operation("A prompt in, its continuation out", _said(), body="GenerateBody", detail=True),
            "get": _operation("The same with query parameters", said, detail=True, parameters=query),
        },
        "/health": {"get": _health("Whether requests are served as they should be")},
        "/health/ready": {"get": _health("The same")},
        "/health/live": {"get": _health("Whether the process runs")},
        "/metrics": {
            "get": _operation(
                "Metrics for Prometheus", {"content": {"text/plain": {"schema": {"type": "string"}}}}, detail=True
            )
        },
    }


def _operation(
    summary: str,
    answer: Schema,
    *,
    body: str | None = None,
    detail: bool = False,
    parameters: Sequence[Schema] = (),
) -> Schema:
    """detail: whether errors have the form `{"detail": ...}` in place of OpenAI's."""
    error = _content(_DETAIL if detail else _reference("ErrorBody"))
    operation: Schema = {
        "summary": summary,
        "parameters": list(parameters),
        "responses": {
            "200": {"description": "The answer", **answer},
            **{str(status): {"description": text, **error} for status, text in _error_statuses().items()},
        },
    }
    if body is not None:
        content = {"schema": _reference(body), "example": _EXAMPLES[body]}
        operation["requestBody"] = {"required": True, "content": {JSON: content}}
    return operation


def _error_statuses() -> Mapping[int, str]:
    """Each status with the codes that it comes with."""
    codes: dict[int, list[str]] = {}
    for form in TABLE.values():
        codes.setdefault(form.status, []).append(form.code)
    return {status: ", ".join(sorted(found)) for status, found in sorted(codes.items())}


def _answer(schema: str, *, streams: bool = False) -> Schema:
    content = _content(_reference(schema))
    if streams:
        content["content"]["text/event-stream"] = {"schema": _EVENT}
    return content


def _said() -> Schema:
    return _content({"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}})


def _health(summary: str) -> Schema:
    answer = _content(_STATUS)
    return {
        "summary": summary,
        "security": [],
        "responses": {"200": {"description": "Yes", **answer}, "503": {"description": "No, and why", **answer}},
    }


def _content(schema: Schema) -> Schema:
    return {"content": {JSON: {"schema": schema}}}


def _reference(name: str) -> Schema:
    return {"$ref": REFERENCE.format(name=name)}


def _parameter(name: str, place: str, schema: Schema, *, required: bool = True) -> Schema:
    return {"name": name, "in": place, "required": required, "schema": schema}


def _query_of(body: str) -> list[Schema]:
    schema = components()[body]
    required = schema.get("required", [])
    return [
        _parameter(name, "query", _not_null(field), required=name in required)
        for name, field in schema["properties"].items()
    ]


def _not_null(schema: Schema) -> Schema:
    """A query parameter is left out where a body has null."""
    kept = [choice for choice in schema.get("anyOf", []) if choice.get("type") != "null"]
    return kept[0] if kept else schema
