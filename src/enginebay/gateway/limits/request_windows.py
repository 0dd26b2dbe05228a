"""One request taken from a moving window, and how many are left: what the library `limits` tells in two steps."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from limits import RateLimitItem
from limits.aio.storage import RedisStorage
from limits.aio.storage.redis.bridge import RedisBridge
from redis.asyncio import ConnectionPool, Redis

from enginebay.gateway.limits.request_entries import RequestEntries

_ACQUIRE, _COUNT = RedisBridge.SCRIPT_ACQUIRE_MOVING_WINDOW.decode(), RedisBridge.SCRIPT_MOVING_WINDOW.decode()


_MAX_AT_ONCE = 16
"""In their order: a pool whose connections are all taken gives the next one to whoever asks just then."""


class RequestWindows(Protocol):
    async def hit(self, item: RateLimitItem, subject: str) -> int | None:
        """How many are left after this one; None where there was no room for it, which then does not count."""
        ...


class MemoryWindows:
    """What the library's own limiter does with such a store, without the calls that it makes around that."""

    def __init__(self, entries: RequestEntries) -> None:
        self._entries = entries

    async def hit(self, item: RateLimitItem, subject: str) -> int | None:
        num_left = self._entries.take(item.key_for(subject), item.amount, item.get_expiry())
        return num_left if num_left >= 0 else None


class RedisWindows:
    """The library's own two scripts, in one round trip."""

    def __init__(self, storage: RedisStorage, pool: ConnectionPool) -> None:
        self._bridge, self._redis = storage.bridge, Redis(connection_pool=pool)
        self._places = asyncio.Semaphore(_MAX_AT_ONCE)

    async def hit(self, item: RateLimitItem, subject: str) -> int | None:
        key, now, expiry_s = self._bridge.prefixed_key(item.key_for(subject)), time.time(), item.get_expiry()
        async with self._places, self._redis.pipeline(transaction=False) as pipeline:
            pipeline.eval(_ACQUIRE, 1, key, now, item.amount, expiry_s, 1)
            pipeline.eval(_COUNT, 1, key, now - expiry_s, item.amount)
            is_granted, window = await pipeline.execute()
        return item.amount - window[1] if is_granted else None
