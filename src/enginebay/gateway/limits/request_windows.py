"""One request taken from a moving window, and how many are left: what the library `limits` tells in two steps."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, Protocol

from limits import RateLimitItem
from limits.aio.storage import RedisStorage
from limits.aio.storage.redis.bridge import RedisBridge
from redis.asyncio import ConnectionPool, Redis

from enginebay.gateway.limits.request_entries import RequestEntries

_SUBJECT = "\0"
_ACQUIRE, _COUNT = RedisBridge.SCRIPT_ACQUIRE_MOVING_WINDOW.decode(), RedisBridge.SCRIPT_MOVING_WINDOW.decode()


_MAX_AT_ONCE = 16
"""In their order: a pool whose connections are all taken gives the next one to whoever asks just then."""


class WindowLimit:
    """A limit of the library, with what is the same in the keys of all its subjects."""

    __slots__ = ("_after", "_before", "amount", "expiry_s", "item")

    def __init__(self, item: RateLimitItem) -> None:
        self.item, self.amount, self.expiry_s = item, item.amount, item.get_expiry()
        self._before, self._after = item.key_for(_SUBJECT).split(_SUBJECT)

    def key_for(self, subject: str) -> str:
        """As the library writes it."""
        return f"{self._before}{subject}{self._after}"


class RequestWindows(Protocol):
    def hit(self, limit: WindowLimit, subject: str) -> int | Coroutine[Any, Any, int | None] | None:
        """How many are left after this one; None where there was no room for it, which then does not count.

        To be awaited where somebody else has to be asked.
        """
        ...


class MemoryWindows:
    """What the library's own limiter does with such a store, without the calls that it makes around that."""

    def __init__(self, entries: RequestEntries) -> None:
        self._entries = entries

    def hit(self, limit: WindowLimit, subject: str) -> int | None:
        num_left = self._entries.take(limit.key_for(subject), limit.amount, limit.expiry_s)
        return num_left if num_left >= 0 else None


class RedisWindows:
    """The library's own two scripts, in one round trip."""

    def __init__(self, storage: RedisStorage, pool: ConnectionPool) -> None:
        self._bridge, self._redis = storage.bridge, Redis(connection_pool=pool)
        self._places = asyncio.Semaphore(_MAX_AT_ONCE)

    async def hit(self, limit: WindowLimit, subject: str) -> int | None:
        key, now, expiry_s = self._bridge.prefixed_key(limit.key_for(subject)), time.time(), limit.expiry_s
        async with self._places, self._redis.pipeline(transaction=False) as pipeline:
            pipeline.eval(_ACQUIRE, 1, key, now, limit.amount, expiry_s, 1)
            pipeline.eval(_COUNT, 1, key, now - expiry_s, limit.amount)
            is_granted, window = await pipeline.execute()
        return limit.amount - window[1] if is_granted else None
