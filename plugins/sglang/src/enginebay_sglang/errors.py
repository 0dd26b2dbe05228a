"""SGLang's errors: three shapes of bodies, errors inside streams, and the finish reason `abort`."""

from __future__ import annotations

import re

from enginebay.errors import BackendOverloaded, ContextTooLong, EngineBayError, InvalidRequest, UpstreamError
from enginebay.wire.openai_errors import error_from_response, read_error

_TOO_LONG = re.compile(r"The input \((\d+) tokens\) is longer than the model's context length \((\d+) tokens\)")
_TOO_MUCH = re.compile(
    r"maximum context length of (\d+) tokens\. You requested a total of \d+ tokens: (\d+) tokens from the input "
    r"messages and (\d+) tokens"
)


def error_from_body(status: int, body: bytes, *, backend: str) -> EngineBayError:
    """/generate says {error: {message}} or {error: str}, the OpenAI routes a flat {object: error, message, ...}."""
    detail = read_error(body)
    message = detail.message if detail is not None else ""
    if detail is not None and status == 200 and str(detail.code).isdigit():
        status = int(str(detail.code))  # inside a stream
    if status == 503 and message:
        # --max-queued-requests: the only reason to refuse; a server that loads answers with an empty body
        return BackendOverloaded(message, backend=backend)
    return _about_length(message) or error_from_response(status, body, backend=backend)


def error_from_abort(message: str, status: int | None, *, backend: str) -> EngineBayError:
    """The engine gave the request up, in the middle of an answer with status 200."""
    if status == 400:
        return _about_length(message) or InvalidRequest(message)
    if status in (429, 503):
        return BackendOverloaded(message, backend=backend)
    return UpstreamError(f"the engine aborted the request: {message}", backend=backend, status=status)


def _about_length(message: str) -> ContextTooLong | None:
    if found := _TOO_LONG.search(message):
        return ContextTooLong(num_tokens=int(found.group(1)), limit=int(found.group(2)))
    if found := _TOO_MUCH.search(message):
        limit, num_tokens, max_tokens = map(int, found.groups())
        return ContextTooLong(num_tokens=num_tokens, limit=limit, max_tokens=max_tokens)
    return None
