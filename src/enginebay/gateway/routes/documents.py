"""GET /openapi.json and /docs: the same for every server, so they are made once."""

from __future__ import annotations

from enginebay.gateway.exchange import JSON_HEADERS, Exchange
from enginebay.gateway.openapi.document import document_json
from enginebay.gateway.openapi.page import CONTENT_POLICY, docs_page
from enginebay.gateway.served import Served


async def openapi(served: Served, exchange: Exchange) -> None:
    await exchange.respond(200, document_json(), JSON_HEADERS)


async def docs(served: Served, exchange: Exchange) -> None:
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-security-policy", CONTENT_POLICY.encode()),
        (b"x-content-type-options", b"nosniff"),
    ]
    await exchange.respond(200, docs_page(), headers)
