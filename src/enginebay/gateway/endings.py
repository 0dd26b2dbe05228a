"""What kind of outcome an error is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from enginebay.errors import BackendOverloaded, RequestError, ShuttingDown
from enginebay.gateway.body import ClientGone
from enginebay.gateway.call import OutcomeKind
from enginebay.wire.openai_errors import TABLE, wire_form

SHUTTING_DOWN = TABLE[ShuttingDown].code


def ending_of(
    error: BaseException, *, has_tokens: bool, is_ending: Callable[[], bool]
) -> tuple[OutcomeKind, str | None]:
    """And the wire's code. has_tokens: some were received before. is_ending: whether the server is."""
    if isinstance(error, ClientGone):
        return "cancelled", None
    if isinstance(error, asyncio.CancelledError | GeneratorExit):
        return ("failed", SHUTTING_DOWN) if is_ending() else ("cancelled", None)
    is_refusal = isinstance(error, RequestError | BackendOverloaded) and not has_tokens
    return "refused" if is_refusal else "failed", wire_form(error).code
