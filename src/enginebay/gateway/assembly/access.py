"""Doors that count requests: for API keys, or without them by address."""

from __future__ import annotations

from enginebay.clock import Clock
from enginebay.config.gateway import GatewayConfig
from enginebay.config.gateway_limits import LimitsConfig
from enginebay.gateway.access.authentication import Authentication
from enginebay.gateway.access.cached_keys import CachedKeys
from enginebay.gateway.access.doors import CountedDoor, KeyDoor, LoopbackDoor
from enginebay.gateway.access.store import KeyStore
from enginebay.gateway.database import Database
from enginebay.gateway.doorkeeper import Doorkeeper
from enginebay.gateway.limits.requests import DEFAULT_FAILURES_PER_MINUTE, RequestLimits, RequestStore


class CountingDoors:
    """`door` is made anew by each reload; the keys in memory and the counts of requests stay."""

    def __init__(self, config: GatewayConfig, database: Database | None, *, clock: Clock) -> None:
        """database: with access, for its keys."""
        self._counts = _request_store(config.limits, clock)
        self._authentication = None if database is None else _authentication(config, database, clock)

    def door(self, config: GatewayConfig) -> Doorkeeper:
        limits = config.limits or LimitsConfig()
        access = config.access
        if access is None or self._authentication is None:
            counts = RequestLimits(limits, self._counts, failures_per_minute=DEFAULT_FAILURES_PER_MINUTE)
            return CountedDoor(LoopbackDoor(), counts)
        counts = RequestLimits(limits, self._counts, failures_per_minute=access.failures_per_minute)
        return KeyDoor(self._authentication, counts)

    async def aclose(self) -> None:
        if self._authentication is not None:
            await self._authentication.aclose()
        await self._counts.aclose()


def _authentication(config: GatewayConfig, database: Database, clock: Clock) -> Authentication | None:
    if config.access is None:
        return None
    keys = CachedKeys(
        KeyStore(database),
        clock=clock,
        num_cached=config.access.num_cached_keys,
        trusted_without_source_s=config.access.trusted_without_database_s,
    )
    return Authentication(keys)


def _request_store(limits: LimitsConfig | None, clock: Clock) -> RequestStore:
    if limits is None or limits.redis is None:
        return RequestStore.in_memory(clock)
    return RequestStore.in_redis(str(limits.redis), clock=clock)
