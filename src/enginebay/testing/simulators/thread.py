"""A simulator on an event loop and a thread of its own: for tests that are not async, or have a loop each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread

from enginebay.testing.simulators.performance import SimulatorProfile
from enginebay.testing.simulators.server import Simulator

FAST = SimulatorProfile(pace="paced", tick_s=0.004, max_num_seqs=64)
"""Fast enough for a whole conformance suite, and slow enough that requests can be cancelled in their middle."""


class SimulatorThread:
    """Serves from the moment it is made until `close`. Not a context manager: test classes open and close apart."""

    def __init__(self, kind: str, *arguments: str, profile: SimulatorProfile = FAST) -> None:
        """arguments: the engine's own command line. Raises what a start of the simulator raises."""
        self._kind, self._arguments, self._profile = kind, arguments, profile
        started: Future[Simulator] = Future()
        self._thread = Thread(target=lambda: asyncio.run(self._serve(started)))
        self._thread.start()
        if (error := started.exception()) is not None:
            self._thread.join()
            raise error
        self.simulator = started.result()

    @property
    def url(self) -> str:
        return self.simulator.url

    def call(self, function: Callable[[], object]) -> None:
        """On the simulator's own loop; returns when it has run. Raises what it raises."""

        async def called() -> None:
            function()

        asyncio.run_coroutine_threadsafe(called(), self._loop).result(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    async def _serve(self, started: Future[Simulator]) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        try:
            simulator = Simulator(self._kind, self._arguments, profile=self._profile, port=0)
            await simulator.start()
        except Exception as error:  # noqa: BLE001 - it is raised where the thread was made
            started.set_exception(error)
            return
        started.set_result(simulator)
        try:
            await self._end.wait()
        finally:
            await simulator.aclose()
