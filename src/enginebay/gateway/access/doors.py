"""The two doors of the gateway: one that asks for a key, and one for this machine alone."""

from __future__ import annotations

import ipaddress
from typing import Protocol

from enginebay.errors import AuthenticationFailed, PermissionDenied
from enginebay.gateway.access.authentication import Authentication
from enginebay.gateway.access.scopes import demand_scope
from enginebay.gateway.call import Client
from enginebay.gateway.doorkeeper import Doorkeeper
from enginebay.gateway.exchange import Exchange
from enginebay.gateway.limits.rate_headers import Headers, Left, headers_of_least


class RequestCounts(Protocol):
    """Limits of requests; each raises RateLimited. headers: of the answer, told of the limit that refuses."""

    async def demand_for_address(self, address: str, headers: Headers) -> Left | None: ...
    async def demand_for_key(self, client: Client, headers: Headers) -> Left | None: ...
    async def demand_few_failures(self, address: str) -> None: ...
    async def count_failure(self, address: str) -> None: ...


class KeyDoor:
    """Lets in who has a key with the scope. The order is by cost: who has been refused too often costs nothing."""

    def __init__(self, authentication: Authentication, counts: RequestCounts) -> None:
        self._authentication, self._counts = authentication, counts

    async def let_in(self, exchange: Exchange, scope: str) -> Client:
        address, headers = exchange.client.address, exchange.answer_headers
        await self._counts.demand_few_failures(address)
        of_address = await self._counts.demand_for_address(address, headers)
        try:
            client = await self._authentication.client(exchange.header(b"authorization"), address)
        except AuthenticationFailed:
            await self._counts.count_failure(address)
            raise
        demand_scope(client, scope)
        of_key = await self._counts.demand_for_key(client, headers)
        headers += headers_of_least(of_key, of_address)
        return client

    async def aclose(self) -> None:
        await self._authentication.aclose()


class LoopbackDoor:
    """Without keys: this machine alone, whatever address the server listens on and whichever server that is."""

    async def let_in(self, exchange: Exchange, scope: str) -> Client:
        client = exchange.client
        if not is_loopback(client.address):
            raise PermissionDenied(
                "this gateway has no API keys, so it serves only its own machine: "
                "set `gateway.access` and make a key with `enginebay keys create`"
            )
        return client


class CountedDoor:
    """Another door, behind a limit of requests by address."""

    def __init__(self, inner: Doorkeeper, counts: RequestCounts) -> None:
        self._inner, self._counts = inner, counts

    async def let_in(self, exchange: Exchange, scope: str) -> Client:
        headers = exchange.answer_headers
        of_address = await self._counts.demand_for_address(exchange.client.address, headers)
        headers += headers_of_least(of_address)
        return await self._inner.let_in(exchange, scope)


def is_loopback(address: str) -> bool:
    """An address that is unknown, as of a Unix socket behind which a proxy may stand, is not."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback
