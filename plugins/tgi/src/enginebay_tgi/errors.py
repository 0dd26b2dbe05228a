"""TGI's errors as ours: `{"error": str, "error_type": str}`, the same as an event inside a stream, or plain text."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import msgspec

from enginebay.errors import (
    BackendOverloaded,
    BackendUnavailable,
    ContextTooLong,
    EngineBayError,
    EngineStepFailed,
    InvalidRequest,
    UpstreamError,
)
from enginebay.wire.openai_errors import error_from_response

_TOO_LONG = re.compile(r"must be <= (\d+)\. Given: (\d+) `inputs` tokens and (\d+) `max_new_tokens`")
_INPUT_TOO_LONG = re.compile(r"`inputs` must have less than (\d+) tokens\. Given: (\d+)")
_FIELD = re.compile(r"`(\w+)`")
_OUR_FIELDS = {
    "inputs": "prompt",
    "max_new_tokens": "max_tokens",
    "truncate": "truncate_prompt_tokens",
    "top_n_tokens": "logprobs",
    "decoder_input_details": "prompt_logprobs",
}


class ErrorBody(msgspec.Struct):
    error: str
    error_type: str = ""


def error_from_answer(status: int, body: bytes, headers: Mapping[str, str], *, backend: str) -> EngineBayError:
    """Of an answer other than 200. Never raises."""
    if status == 401:
        problem = "the server refuses the API key: set options.api_key to the one it was started with"
        return UpstreamError(problem, backend=backend, status=status)
    try:
        read = msgspec.json.decode(body, type=ErrorBody)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return error_from_response(status, body, backend=backend, headers=headers)  # plain text, or a proxy's
    return typed_error(read.error, read.error_type, backend=backend, status=status)


def typed_error(message: str, error_type: str, *, backend: str, status: int | None = None) -> EngineBayError:
    """error_type: empty inside a stream of the chat route, which calls every error a 422: there its words tell."""
    error_type = error_type or _type_by_words(message)
    known = _TYPES.get(error_type)
    if known is not None:
        return known(message, backend)
    if status == 422:
        return _invalid(message, backend)
    return UpstreamError(f"{message} ({error_type or 'no error type'})", backend=backend, status=status)


def _type_by_words(message: str) -> str:
    return next((error_type for words, error_type in _WORDS.items() if message.startswith(words)), "")


def _invalid(message: str, backend: str) -> EngineBayError:
    if match := _TOO_LONG.search(message):
        limit, num_tokens, max_tokens = map(int, match.groups())
        return ContextTooLong(num_tokens=num_tokens, limit=limit, max_tokens=max_tokens)
    if match := _INPUT_TOO_LONG.search(message):
        return ContextTooLong(num_tokens=int(match.group(2)), limit=int(match.group(1)))
    field = _FIELD.search(message)
    if field is None:
        return InvalidRequest(message, field="response_format" if "grammar" in message else None)
    return InvalidRequest(message, field=_OUR_FIELDS.get(field.group(1), field.group(1)))


_WORDS: Mapping[str, str] = {
    "Input validation error": "validation",
    "Model is overloaded": "overloaded",
    "Request failed during generation": "generation",
    "Incomplete generation": "incomplete_generation",
    "Template error": "template_error",
    "Tool error": "tool_error",
}
_TYPES: Mapping[str, Callable[[str, str], EngineBayError]] = {
    "validation": _invalid,
    "overloaded": lambda message, backend: BackendOverloaded(message, backend=backend),
    "generation": lambda message, backend: EngineStepFailed(message, backend=backend),
    "healthcheck": lambda message, backend: BackendUnavailable(message, backend=backend),
    "template_error": lambda message, backend: InvalidRequest(message, field="messages"),
    "tool_error": lambda message, backend: InvalidRequest(message, field="tools"),
}
