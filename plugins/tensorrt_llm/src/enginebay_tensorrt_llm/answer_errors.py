"""Errors of trtllm-serve as typed ones. Nearly everything is a 400 there, the server's own failures among them."""

from __future__ import annotations

import re
from collections.abc import Mapping

from enginebay.errors import ContextTooLong, EngineBayError, InvalidRequest, UpstreamError
from enginebay.wire.openai_errors import error_from_response

_NUMBER = r"\D{0,12}([\d.]+)"
_TOO_LONG = re.compile(
    rf"prompt length{_NUMBER}.*?(?:max_tokens{_NUMBER})?\)? should not exceed (?:max_seq_len|max_num_tokens|"
    rf"max_input_len){_NUMBER}",
    re.DOTALL,
)
# Words of the engine's own troubles, which no request can be to blame for.
_OWN_FAILURE = re.compile(
    r"cuda|out of memory|nccl|mpi|executor|internal|runtimeerror|assertion|\[tensorrt-llm\]\[error\]", re.IGNORECASE
)


def error_of(status: int, body: bytes, headers: Mapping[str, str], *, backend: str) -> EngineBayError:
    """Both shapes: the flat object of line 1.2, and `{"error": text}` of schema errors from 1.3 on."""
    error = error_from_response(status, body, backend=backend, headers=headers)
    if status != 400 or not isinstance(error, InvalidRequest):
        return error
    message = str(error)
    if (too_long := _context_too_long(message)) is not None:
        return too_long
    if _OWN_FAILURE.search(message):
        return UpstreamError(f"{message} (HTTP 400, which this server answers its own failures with)", backend=backend)
    return error


def _context_too_long(message: str) -> ContextTooLong | None:
    found = _TOO_LONG.search(message)
    if found is None:
        return None
    num_tokens, max_tokens, limit = (None if group is None else int(float(group)) for group in found.groups())
    assert num_tokens is not None
    assert limit is not None
    return ContextTooLong(num_tokens=num_tokens, limit=limit, max_tokens=max_tokens)
