"""GET /health, /health/ready and /health/live: never through the data path."""

from __future__ import annotations

from enginebay.gateway.exchange import JSON_HEADERS, Exchange
from enginebay.gateway.served import Served
from enginebay.types import HealthState
from enginebay.wire.openai_responses import encode


async def health(served: Served, exchange: Exchange) -> None:
    """200 while requests can be served, `degraded` where not all that should serve them does; else 503 with why."""
    health = await served.models.health()
    if health.state is HealthState.READY:
        lost = health.reason
        body = encode({"status": "degraded", "reason": lost}) if lost else b'{"status":"healthy"}'
        await exchange.respond(200, body, JSON_HEADERS)
        return
    body = encode({"status": health.state.value, "reason": health.reason})
    await exchange.respond(503, body, JSON_HEADERS)


async def live(served: Served, exchange: Exchange) -> None:
    """200 as long as the server answers at all, also while the model loads."""
    await exchange.respond(200, b'{"status":"alive"}', JSON_HEADERS)
