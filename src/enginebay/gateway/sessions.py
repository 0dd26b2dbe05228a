"""Requests of one session can be kept on one replica: its client names the session in a header."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from enginebay.errors import InvalidRequest
from enginebay.gateway.exchange import Exchange
from enginebay.types import GenerationRequest

SESSION_HEADER = "x-enginebay-session"
MAX_LENGTH = 256


def with_session(requests: Sequence[GenerationRequest], exchange: Exchange) -> Sequence[GenerationRequest]:
    """It decides nothing but the replica. Raises InvalidRequest."""
    values = exchange.headers(SESSION_HEADER.encode())
    if not values:
        return requests
    key = values[0].decode("latin-1")
    if len(values) > 1 or not 1 <= len(key) <= MAX_LENGTH:
        raise InvalidRequest(
            f"give the header {SESSION_HEADER} once, with 1 to {MAX_LENGTH} characters", field=SESSION_HEADER
        )
    return [replace(request, session_key=key) for request in requests]
