"""Who may come in. The thin server asks nobody; the gateway's access control takes this place."""

from __future__ import annotations

from typing import Protocol

from enginebay.gateway.call import Client
from enginebay.gateway.exchange import Exchange

INFERENCE, METRICS = "inference", "metrics"
"""The scopes that routes demand."""


class Doorkeeper(Protocol):
    async def let_in(self, exchange: Exchange, scope: str) -> Client:
        """Who asks; `exchange.client` has only its address yet. Before the body is read.

        Raises AuthenticationFailed, PermissionDenied or RateLimited.
        """
        ...


class OpenDoor:
    """Everyone who can connect may do everything."""

    async def let_in(self, exchange: Exchange, scope: str) -> Client:
        return exchange.client
