"""A clock that moves only when told to: what depends on time is tested without waiting for it.

    clock = FakeClock()
    async def main():
        await clock.run(serve_for_an_hour(clock))    # returns at once; every sleeper woke in order

Only what sleeps on this clock is under its control: real sockets, threads and `asyncio.sleep` are not.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable
from itertools import count
from typing import TypeVar

T = TypeVar("T")

_SETTLING_TURNS = 150
"""Turns of the loop in which sockets on loopback also hand over what was sent."""
_PATIENCE_S = 5.0


class FakeClock:
    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._serials = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._now

    async def sleep_until(self, instant: float) -> None:
        if instant <= self._now:
            return
        woken = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (instant, next(self._serials), woken))
        await woken

    @property
    def num_sleepers(self) -> int:
        return sum(not woken.done() for _, _, woken in self._sleepers)

    def advance(self, duration_s: float) -> None:
        """Jump. Sleepers wake in the order of their instants, and all of them see the new time."""
        self._now += duration_s
        while self._sleepers and self._sleepers[0][0] <= self._now:
            self._wake_first()

    async def run_for(self, duration_s: float) -> None:
        """Go there step by step: each sleeper wakes at its own instant, and what it starts runs before the next."""
        end = self._now + duration_s
        await self._settle()
        while (instant := self._next_instant()) is not None and instant <= end:
            self._now = instant
            self._wake_first()
            await self._settle()
        self._now = end

    async def run(self, main: Awaitable[T]) -> T:
        """Await it, jumping to the next sleeper whenever nothing else can run.

        Raises RuntimeError when it neither ends nor sleeps on this clock.
        """
        task = asyncio.ensure_future(main)
        try:
            while not task.done():
                await self._settle()
                instant = self._next_instant()
                if instant is not None and not task.done():
                    self._now = instant
                    self._wake_first()
                elif not task.done():
                    await self._wait_for_the_outside(task)
            return task.result()
        finally:
            task.cancel()

    async def _wait_for_the_outside(self, task: asyncio.Future[T]) -> None:
        loop = asyncio.get_running_loop()
        patience_ends_at = loop.time() + _PATIENCE_S
        while not task.done() and self._next_instant() is None:
            await asyncio.wait({task}, timeout=0.001)
            if loop.time() > patience_ends_at:
                raise RuntimeError("it neither ends nor sleeps on the fake clock: it waits for something else")

    def _next_instant(self) -> float | None:
        while self._sleepers and self._sleepers[0][2].done():
            heapq.heappop(self._sleepers)  # cancelled
        return self._sleepers[0][0] if self._sleepers else None

    def _wake_first(self) -> None:
        _, _, woken = heapq.heappop(self._sleepers)
        if not woken.done():
            woken.set_result(None)

    async def _settle(self) -> None:
        for _ in range(_SETTLING_TURNS):
            await asyncio.sleep(0)
