"""What vLLM's error answers mean, where the table of the OpenAI API says too little."""

from __future__ import annotations

import re
from collections.abc import Mapping

from enginebay.errors import (
    ContextTooLong,
    EngineBayError,
    EngineDied,
    InvalidRequest,
    UpstreamError,
)
from enginebay.wire.openai_errors import error_from_response

_ENGINE_IS_DEAD = "EngineCore encountered an issue"
_PROMPT_IN_CHARACTERS = re.compile(
    r"maximum context length is (\d+) tokens.* characters \(more than \d+ characters, which is the upper bound "
    r"for (\d+) input tokens"
)
_TOO_MANY_OUTPUT_TOKENS = re.compile(r"max_tokens=(\d+) cannot be greater than max_model_len=(\d+)")


def answer_error(status: int, body: bytes, *, backend: str, headers: Mapping[str, str]) -> EngineBayError:
    """The typed error of an answer other than 200. Never raises."""
    error = error_from_response(status, body, backend=backend, headers=headers)
    if status == 401:
        return UpstreamError("the server refuses our API key: set options.api_key", backend=backend, status=status)
    if status == 501:
        return InvalidRequest(f"this model cannot do that: {error}")
    if match := _PROMPT_IN_CHARACTERS.search(body.decode("utf-8", "replace")):
        # It counts characters before it tokenises: all that is known is that the tokens are more than fit.
        return ContextTooLong(num_tokens=int(match[2]) + 1, limit=int(match[1]))
    return sharpened(error, backend=backend)


def sharpened(error: EngineBayError, *, backend: str) -> EngineBayError:
    """The same error, or what vLLM's wording says more exactly. Also for errors inside a stream."""
    message = str(error)
    if isinstance(error, UpstreamError) and _ENGINE_IS_DEAD in message:
        return EngineDied("vLLM's engine core ended; its server answers errors and then ends too", backend=backend)
    if match := _TOO_MANY_OUTPUT_TOKENS.search(message):
        # It looks at max_tokens before it tokenises: of the prompt, one token is certain.
        return ContextTooLong(num_tokens=1, limit=int(match[2]), max_tokens=int(match[1]), field="max_tokens")
    if isinstance(error, ContextTooLong) and error.field in ("input_tokens", "input_text"):
        return ContextTooLong(num_tokens=error.num_tokens, limit=error.limit)
    return error
