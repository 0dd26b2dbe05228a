"""Names of answers."""

from __future__ import annotations

from enginebay.errors import InvalidRequest
from enginebay.gateway.exchange import REQUEST_ID, Exchange


def response_id(prefix: str, exchange: Exchange, asked: str | None) -> str:
    """`cmpl-<id>`: the body's request_id, else the exchange's. Raises InvalidRequest."""
    if asked is not None and not REQUEST_ID.fullmatch(asked):
        raise InvalidRequest("request_id must be 1 to 128 letters, digits or ._:/+=@-", field="request_id")
    return f"{prefix}-{asked or exchange.request_id}"
