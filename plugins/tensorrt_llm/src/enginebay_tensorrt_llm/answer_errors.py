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
# The PyTorch path's, where the prompt leaves no room for any output.
_NOTHING_LEFT = re.compile(rf"= max_seq_len{_NUMBER}\D{{0,8}}splited_prompt_len{_NUMBER}")
# Words of the engine's own troubles, which no request can be to blame for.
_OWN_FAILURE = re.compile(
    r"\b(?:cuda|nccl|mpi|out of memory|executor|internal error|runtimeerror|assertion failed)"
    r"|\[tensorrt-llm\]\[error\]",
    re.IGNORECASE,
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
    if (found := _TOO_LONG.search(message)) is not None:
        prompt, max_tokens, limit = found.groups()
        asked = None if max_tokens is None else _whole(max_tokens)
        return ContextTooLong(num_tokens=_whole(prompt), limit=_whole(limit), max_tokens=asked)
    if (found := _NOTHING_LEFT.search(message)) is not None:
        limit, prompt = found.groups()
        return ContextTooLong(num_tokens=_whole(prompt), limit=_whole(limit))
    return None


def _whole(number: str) -> int:
    """Lengths are divided by the number of context-parallel GPUs, and so come with a fraction."""
    return int(float(number))
