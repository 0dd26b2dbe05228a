"""The two doors of the gateway: one that asks for a key, and one for this machine alone."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import Protocol
from urllib.parse import urlsplit

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
    """Without keys: this machine alone, whatever address the server listens on and whichever server that is.

    What came through a proxy is nobody's own: its headers may be made up, also those that made the server take its
    client for local. A browser of this machine is served for pages of this machine alone.
    """

    async def let_in(self, exchange: Exchange, scope: str) -> Client:
        client = exchange.client
        if not is_loopback(client.address):
            raise _only_this_machine("")
        for name, value in exchange.scope["headers"]:
            if name in _OF_PROXIES:
                raise _only_this_machine(f", and nothing that came through a proxy ({name.decode()})")
            if name in _OF_BROWSERS and not _OF_BROWSERS[name](value.decode("latin-1")):
                raise _only_this_machine(f", and no page of another ({name.decode()})")
        return client


def _only_this_machine(and_what_not: str) -> PermissionDenied:
    return PermissionDenied(
        f"this gateway has no API keys, so it serves only its own machine{and_what_not}: "
        "set `gateway.access` and make a key with `enginebay keys create`"
    )


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


def is_local_origin(origin: str) -> bool:
    """Of a page: whether this machine served it."""
    try:
        host = urlsplit(origin).hostname or ""
    except ValueError:
        return False
    return host == "localhost" or host.endswith(".localhost") or is_loopback(host)


def is_own_host(host: str) -> bool:
    """Whether the name by which a client found the server is none that a stranger can own, and let point here."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    return "." not in name or name.endswith(".localhost") or is_address(name)


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return False
    return True


def is_not_cross_site(relation: str) -> bool:
    """Of the page that made a browser ask."""
    return relation != "cross-site"


_OF_PROXIES = frozenset({b"forwarded", b"x-forwarded-for", b"x-real-ip", b"via"})
_OF_BROWSERS: Mapping[bytes, Callable[[str], bool]] = {
    b"origin": is_local_origin,
    b"host": is_own_host,
    b"sec-fetch-site": is_not_cross_site,
}
