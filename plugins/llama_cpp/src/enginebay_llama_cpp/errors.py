"""llama-server's error objects: {error: {code, message, type}}."""

from __future__ import annotations

import msgspec

from enginebay.errors import BackendUnavailable, ContextTooLong, EngineBayError
from enginebay.wire.openai_errors import error_from_response


class _Detail(msgspec.Struct):
    message: str
    code: int | None = None
    type: str | None = None
    n_prompt_tokens: int | None = None
    n_ctx: int | None = None


class _Body(msgspec.Struct):
    error: _Detail


def error_from_body(status: int, body: bytes, *, backend: str) -> EngineBayError:
    """status: of the answer; an error inside a stream has its own, in the body."""
    detail = _detail(body)
    if detail is None:
        return error_from_response(status, body, backend=backend)
    if detail.type == "exceed_context_size_error" and detail.n_prompt_tokens is not None and detail.n_ctx is not None:
        return ContextTooLong(num_tokens=detail.n_prompt_tokens, limit=detail.n_ctx)
    if detail.type == "unavailable_error":  # it loads: there is no such thing as overload, requests wait for a slot
        return BackendUnavailable(detail.message, backend=backend)
    return error_from_response(detail.code or status, body, backend=backend)


def _detail(body: bytes) -> _Detail | None:
    try:
        return msgspec.json.decode(body, type=_Body).error
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
