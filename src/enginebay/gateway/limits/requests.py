"""Limits of requests, before a body is read. Moving windows: in no interval of that length is one more let in."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.aio.storage import RedisStorage, Storage
from limits.aio.strategies import MovingWindowRateLimiter
from redis.asyncio import BlockingConnectionPool, ConnectionPool
from redis.exceptions import RedisError

from enginebay.clock import Clock
from enginebay.config.gateway_limits import LimitsConfig, LimitSet
from enginebay.errors import RateLimited, StoreUnavailable
from enginebay.gateway.call import Client
from enginebay.gateway.limits.addresses import counted_address
from enginebay.gateway.limits.rate_headers import Headers, Left, ToldLimit
from enginebay.gateway.limits.request_entries import RequestEntries
from enginebay.gateway.limits.request_windows import MemoryWindows, RedisWindows, RequestWindows, WindowLimit

DEFAULT_FAILURES_PER_MINUTE = 60
_LEAST_RETRY_AFTER_S = 0.001
_MAX_CONNECTIONS = 32
_TIMEOUT_S = 2.0
_MAX_WAIT_S = 10.0
"""For a connection, where many are refused at once."""
T = TypeVar("T")


class RequestStore:
    """Where requests are counted, and by which clock."""

    def __init__(
        self,
        storage: Storage,
        windows: RequestWindows,
        *,
        now: Callable[[], float],
        clock: Clock,
        pool: ConnectionPool | None = None,
    ) -> None:
        """windows: on the same storage."""
        self.storage, self.windows, self.now = storage, windows, now
        self.failures = RequestEntries(clock=clock)
        """Of wrong keys, which each gateway counts alone: nobody else's request waits for Redis because of them."""
        self._pool = pool

    @classmethod
    def in_memory(cls, clock: Clock) -> RequestStore:
        entries = RequestEntries(clock=clock)
        return cls(entries, MemoryWindows(entries), now=clock.now, clock=clock)

    @classmethod
    def in_redis(cls, url: str, *, clock: Clock) -> RequestStore:
        """Its clock is each gateway's own wall clock, so these must be kept together."""
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=_MAX_CONNECTIONS,
            timeout=_MAX_WAIT_S,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
        )
        options: dict[str, Any] = {"connection_pool": pool}  # what the library hands on is typed too narrowly
        storage = RedisStorage(f"async+{url}", implementation="redispy", key_prefix="enginebay:requests", **options)
        return cls(storage, RedisWindows(storage, pool), now=time.time, clock=clock, pool=pool)

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()


@dataclass(frozen=True, slots=True)
class _Window:
    limit: WindowLimit
    words: str
    told: ToldLimit


class RequestLimits:
    """Of addresses, of keys, and of wrong keys. Each method raises RateLimited or StoreUnavailable."""

    def __init__(
        self, config: LimitsConfig, store: RequestStore, *, failures_per_minute: int = DEFAULT_FAILURES_PER_MINUTE
    ) -> None:
        self._limiter, self._now, self._windows = MovingWindowRateLimiter(store.storage), store.now, store.windows
        self._failures, self._failure_limiter = store.failures, MovingWindowRateLimiter(store.failures)
        self._of_address = _windows(config.address, "address")
        self._of_key = _windows(config.key, "key")
        self._of_tier: Mapping[str, Sequence[_Window]] = {
            name: _windows(tier, "key") for name, tier in config.tiers.items()
        }
        self._few = RateLimitItemPerMinute(failures_per_minute, namespace="failures")

    async def demand_for_address(self, address: str, headers: Headers) -> Left | None:
        """What is left of its narrowest limit; None where it has none. headers: told of the limit that refuses."""
        return await self._demand(self._of_address, counted_address(address), "this address", headers)

    async def demand_for_key(self, client: Client, headers: Headers) -> Left | None:
        """As for an address."""
        if client.key_id is None:
            return None
        windows = self._of_tier.get(client.tier, self._of_key)
        return await self._demand(windows, client.key_id, "this API key", headers)

    async def demand_few_failures(self, address: str) -> None:
        if not self._failures.num_keys:
            return
        subject = counted_address(address)
        if await self._failure_limiter.test(self._few, subject):
            return
        stats = await self._failure_limiter.get_window_stats(self._few, subject)
        raise RateLimited(
            "too many requests with a wrong API key came from this address: correct the key",
            retry_after_s=max(_LEAST_RETRY_AFTER_S, stats.reset_time - self._failures.now()),
        )

    async def count_failure(self, address: str) -> None:
        await self._failure_limiter.hit(self._few, counted_address(address))

    async def _demand(self, windows: Sequence[_Window], subject: str, who: str, headers: Headers) -> Left | None:
        least: Left | None = None
        for window in windows:
            answer = self._windows.hit(window.limit, subject)
            num_left = answer if answer is None or isinstance(answer, int) else await _reached(answer)
            if num_left is None:
                headers += window.told.headers(0)
                retry_after_s = await self._room_after_s(window.limit.item, subject)
                raise RateLimited(
                    f"{who} may send {window.words}: try again in {retry_after_s:.3g} s", retry_after_s=retry_after_s
                )
            if least is None or num_left < least.num_left:
                least = Left(window.told, num_left)
        return least

    async def _room_after_s(self, item: RateLimitItem, subject: str) -> float:
        stats = await _reached(self._limiter.get_window_stats(item, subject))
        return max(_LEAST_RETRY_AFTER_S, stats.reset_time - self._now())


def _windows(limits: LimitSet, namespace: str) -> Sequence[_Window]:
    windows: list[_Window] = []
    if (num := limits.requests_per_second) is not None:
        item = RateLimitItemPerSecond(num, namespace=namespace)
        windows.append(_Window(WindowLimit(item), f"{num} requests a second", ToldLimit("requests", num, 1)))
    if (num := limits.requests_per_minute) is not None:
        item = RateLimitItemPerMinute(num, namespace=namespace)
        windows.append(_Window(WindowLimit(item), f"{num} requests a minute", ToldLimit("requests", num, 60)))
    return windows


async def _reached(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"Redis cannot be used for limits: {error}; is it running?") from error
