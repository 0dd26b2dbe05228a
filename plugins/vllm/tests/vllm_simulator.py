"""A simulated vLLM on an event loop of its own, so that it outlives the loop of one test."""

from __future__ import annotations

import asyncio
from threading import Event, Thread

from enginebay.testing.simulators import PROFILES, Simulator, SimulatorProfile


class SimulatorThread:
    def __init__(self, *arguments: str, profile: SimulatorProfile = PROFILES["paced"]) -> None:
        self._arguments, self._profile = arguments, profile
        self._is_up = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._is_up.wait(10)

    async def _serve(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with Simulator("vllm", self._arguments, profile=self._profile) as self.simulator:
            self._is_up.set()
            await self._end.wait()

    @property
    def url(self) -> str:
        return self.simulator.url

    def call(self, function: object, *arguments: object) -> None:
        """On the simulator's own loop."""
        assert callable(function)
        self.loop.call_soon_threadsafe(function, *arguments)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join()
