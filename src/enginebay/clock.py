"""The one clock. Everything that measures takes it through its constructor; tests pass a fake one."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Monotonic seconds; comparable between processes of one machine."""
        ...

    async def sleep_until(self, instant: float) -> None: ...


class MonotonicClock:
    """`time.monotonic`: on Linux one clock for all processes since boot."""

    now = staticmethod(time.monotonic)

    async def sleep_until(self, instant: float) -> None:
        while (remaining := instant - time.monotonic()) > 0:  # noqa: ASYNC110 - a clock, not a flag
            await asyncio.sleep(remaining)
