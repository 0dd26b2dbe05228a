"""Time-outs for many connections with one sleeping task, on the injected clock.

A request costs no timer of its own: a watched object carries `deadline_at` and moves it as it likes. The task sleeps
until the nearest deadline it knows; one that moved on meanwhile is found alive when it wakes.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

from enginebay.clock import Clock

NEVER = math.inf
TICK_S = 0.01
"""A deadline is noticed at most this late; between two looks at all connections at least this long passes."""


class Watched(Protocol):
    deadline_at: float

    def expire(self) -> None:
        """The deadline has passed. Move it, or be dropped from the watch."""
        ...


class DeadlineWatch:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._watched: set[Watched] = set()
        self._wakes_at = NEVER
        self._task: asyncio.Task[None] | None = None

    def add(self, watched: Watched) -> None:
        self._watched.add(watched)
        self.notice(watched.deadline_at)

    def discard(self, watched: Watched) -> None:
        self._watched.discard(watched)

    def notice(self, deadline_at: float) -> None:
        """To be called when a deadline was set that may be nearer than all others."""
        if deadline_at < self._wakes_at:
            self.close()
            self._wakes_at = deadline_at
            self._task = asyncio.get_running_loop().create_task(self._run(), name="enginebay-deadlines")

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._task = None
        self._wakes_at = NEVER

    async def _run(self) -> None:
        while self._wakes_at < NEVER:
            await self._clock.sleep_until(self._wakes_at)
            now = self._clock.now()
            for watched in [one for one in self._watched if one.deadline_at <= now]:
                watched.expire()
            nearest = min((one.deadline_at for one in self._watched), default=NEVER)
            self._wakes_at = max(nearest, now + TICK_S)
        self._task = None
