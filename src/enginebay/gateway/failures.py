"""Errors as answers, in the form that a route's clients expect."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from structlog.typing import FilteringBoundLogger

from enginebay.errors import BackendOverloaded, EngineBayError, NotStarted, ShuttingDown
from enginebay.gateway.body import ClientGone
from enginebay.gateway.exchange import JSON_HEADERS, Exchange
from enginebay.wire.openai_errors import (
    INVALID,
    ErrorBody,
    ErrorDetail,
    error_body,
    error_headers,
    public_message,
    wire_form,
)
from enginebay.wire.openai_responses import DONE, encode, error_event

SHUTDOWN_ANSWER_S = 0.5
ErrorForm = Callable[[BaseException], bytes]
openai_form: ErrorForm = error_body


def detail_form(error: BaseException) -> bytes:
    """`{"detail": ...}`, as FastAPI answers."""
    return encode({"detail": public_message(error)})


async def respond_error(exchange: Exchange, error: Exception, *, form: ErrorForm, log: FilteringBoundLogger) -> None:
    """Log and answer. On routes without OpenAI's codes a fault of ours is a plain 500, unless the model is absent."""
    status, code = wire_form(error).status, wire_form(error).code
    if status >= 500 and not isinstance(error, BackendOverloaded | NotStarted):
        details = _details(error)
        log.error("request failed", request_id=exchange.request_id, path=exchange.path, code=code, **details)
    else:
        log.info("request refused", request_id=exchange.request_id, path=exchange.path, code=code)
    if form is detail_form and status in (502, 504):
        status = 500
    if exchange.has_begun:
        return
    try:
        await exchange.respond(status, form(error), [*JSON_HEADERS, *error_headers(error)])
    except ClientGone:
        log.info("client gone", request_id=exchange.request_id, path=exchange.path, how="before the error")


def _details(error: Exception) -> dict[str, object]:
    """A trace of what is a bug, or hides a foreign error; thousands of an outage would be load of their own."""
    is_told = isinstance(error, EngineBayError) and error.__cause__ is None
    return {"reason": str(error)} if is_told else {"exc_info": error}


async def respond_shutdown(
    exchange: Exchange, error: ShuttingDown, *, form: ErrorForm, log: FilteringBoundLogger
) -> None:
    """Answer within SHUTDOWN_ANSWER_S, or drop the connection: a client that reads nothing does not hold the end up."""
    log.warning("request ended by shutdown", request_id=exchange.request_id, path=exchange.path)
    if exchange.has_ended:
        return
    try:
        async with asyncio.timeout(SHUTDOWN_ANSWER_S):
            if exchange.has_begun:
                await exchange.write(error_event(error) + DONE, is_last=True)
            else:
                await exchange.respond(wire_form(error).status, form(error), JSON_HEADERS)
    except (TimeoutError, ClientGone):
        exchange.abort()


async def no_such_path(exchange: Exchange) -> None:
    body = _routing_error(f"there is no {exchange.path}", "not_found")
    await exchange.respond(404, body, JSON_HEADERS)


async def no_such_method(exchange: Exchange, methods: Sequence[str]) -> None:
    body = _routing_error(f"{exchange.path} takes {' or '.join(methods)}", "method_not_allowed")
    await exchange.respond(405, body, [*JSON_HEADERS, (b"allow", ", ".join(methods).encode())])


def _routing_error(message: str, code: str) -> bytes:
    return encode(ErrorBody(ErrorDetail(message=message, type=INVALID, code=code)))
