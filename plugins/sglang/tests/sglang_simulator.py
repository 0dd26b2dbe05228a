"""The simulated engine on an event loop of its own, so that it outlives the loop of one test."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from threading import Event, Thread

from enginebay.testing.simulators import Simulator, SimulatorProfile

SIMULATE = (str(Path(sys.executable).with_name("enginebay")), "simulate", "sglang", "--profile", "paced")
FAST = SimulatorProfile(pace="paced", tick_s=0.004, max_num_seqs=64)


class SimulatorThread:
    def __init__(self, *arguments: str, profile: SimulatorProfile = FAST) -> None:
        self._arguments, self._profile = arguments, profile
        self._is_up = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._is_up.wait(10)

    async def _serve(self) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with Simulator("sglang", self._arguments, profile=self._profile, port=0) as self.simulator:
            self._is_up.set()
            await self._end.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
