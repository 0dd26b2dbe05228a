"""API keys as the data path sees them: in memory, bounded, and never older than what was promised."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Generic, Protocol, TypeVar

from enginebay.clock import Clock
from enginebay.errors import StoreUnavailable
from enginebay.gateway.access.records import KeyRecord

REVOKED_WITHIN_S = 1.0
"""A change in the database is seen by then."""
_CHECK_AFTER_S = 0.5
_MAX_LOADS = 4  # threads that look for keys which nobody has asked for before

V = TypeVar("V")


class KeySource(Protocol):
    """What is asked in threads; `KeyStore` is one."""

    def find(self, key_id: str) -> KeyRecord | None: ...
    def num_changes(self) -> int: ...


class CachedKeys:
    """Asks the source for a key once, and every half second of traffic whether any key has changed.

    While the source is away the keys at hand stay good for trusted_without_source_s: a revocation that nobody can
    read is not seen for that long.
    """

    def __init__(
        self, source: KeySource, *, clock: Clock, num_cached: int = 10_000, trusted_without_source_s: float = 30.0
    ) -> None:
        self._source, self._clock = source, clock
        self._trusted_without_source_s = trusted_without_source_s
        self._known = _Latest[KeyRecord](num_cached)
        self._unknown = _Latest[None](num_cached)
        self._num_changes: int | None = None
        self._checked_at = self._tried_at = float("-inf")
        self._problem = "the database of the API keys does not answer: try again later"
        self._generation = 0
        self._check: asyncio.Task[None] | None = None
        self._loads: dict[str, asyncio.Task[KeyRecord | None]] = {}
        self._places = asyncio.Semaphore(_MAX_LOADS)

    async def get(self, key_id: str) -> KeyRecord | None:
        """None where there is no such key. Raises StoreUnavailable."""
        age_s = self._clock.now() - self._checked_at
        if age_s > _CHECK_AFTER_S:
            await self._freshen(age_s)
        record = self._known.get(key_id)
        if record is not None or key_id in self._unknown:
            return record
        return await self._load(key_id)

    async def _freshen(self, age_s: float) -> None:
        """Beside the traffic where there is time for that; waits only for an answer that is overdue."""
        now = self._clock.now()
        if self._check is None or (self._check.done() and now - self._tried_at > _CHECK_AFTER_S):
            self._tried_at = now
            self._check = asyncio.create_task(self._look_for_changes())
        left_s = self._tried_at + REVOKED_WITHIN_S - now  # nobody waits long for a source that does not answer
        if age_s <= REVOKED_WITHIN_S:
            return
        await asyncio.wait({self._check}, timeout=max(0.0, left_s))
        is_answered = self._clock.now() - self._checked_at <= REVOKED_WITHIN_S
        if not is_answered and age_s > self._trusted_without_source_s:
            raise StoreUnavailable(self._problem)

    async def _look_for_changes(self) -> None:
        asked_at = self._clock.now()
        try:
            num_changes = await asyncio.to_thread(self._source.num_changes)
        except StoreUnavailable as error:
            self._problem = str(error)
            return
        if num_changes != self._num_changes:
            self._num_changes = num_changes
            self._generation += 1
            self._known.clear()
            self._unknown.clear()
        self._checked_at = asked_at

    async def _load(self, key_id: str) -> KeyRecord | None:
        load = self._loads.get(key_id)
        if load is None:
            load = self._loads[key_id] = asyncio.create_task(self._find(key_id))
            load.add_done_callback(lambda done: self._forget(key_id, done))
        return await asyncio.shield(load)  # others may wait for it who have not left

    def _forget(self, key_id: str, load: asyncio.Task[KeyRecord | None]) -> None:
        del self._loads[key_id]
        if not load.cancelled():
            load.exception()  # read, although everyone who waited for it may have left

    async def _find(self, key_id: str) -> KeyRecord | None:
        async with self._places:
            generation = self._generation
            record = await asyncio.to_thread(self._source.find, key_id)
        if generation == self._generation:  # else it may be from before the change
            if record is None:
                self._unknown.put(key_id, None)
            else:
                self._known.put(key_id, record)
        return record

    @property
    def num_in_memory(self) -> int:
        return len(self._known) + len(self._unknown)

    @property
    def is_looking_done(self) -> bool:
        """Whether nothing asks for changes at this moment."""
        return self._check is None or self._check.done()

    async def aclose(self) -> None:
        tasks = [*self._loads.values(), *([self._check] if self._check is not None else [])]
        await asyncio.gather(*tasks, return_exceptions=True)


class _Latest(Generic[V]):
    """The last so many that were asked for."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: OrderedDict[str, V] = OrderedDict()

    def get(self, key: str) -> V | None:
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key]

    def put(self, key: str, value: V) -> None:
        self._items[key] = value
        if len(self._items) > self._capacity:
            self._items.popitem(last=False)

    def clear(self) -> None:
        self._items.clear()

    def __contains__(self, key: str) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)
