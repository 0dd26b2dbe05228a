"""GET /metrics."""

from __future__ import annotations

from enginebay.gateway.exchange import Exchange
from enginebay.gateway.served import Served
from enginebay.monitoring.exporter import CONTENT_TYPE, text_of_all


async def metrics(served: Served, exchange: Exchange) -> None:
    text = await text_of_all([*served.models.exporters()], served.collectors)
    await exchange.respond(200, text, [(b"content-type", CONTENT_TYPE.encode())])
