"""The conformance suite against the simulated TGI."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import ClassVar

import pytest

from enginebay import get_backend
from enginebay.backend import Backend
from enginebay.guard import GuardedBackend
from enginebay.testing import BackendConformance
from enginebay.testing.simulators import PACED, Simulator, SimulatorProfile


class SimulatorThread:
    """A simulator on an event loop of its own, so that it outlives the loop of one test."""

    def __init__(self, arguments: list[str], profile: SimulatorProfile) -> None:
        self._arguments, self._profile = arguments, profile
        self._is_up = Event()
        self._thread = Thread(target=lambda: asyncio.run(self._serve()))
        self._thread.start()
        assert self._is_up.wait(10)

    async def _serve(self) -> None:
        self.loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        async with Simulator("tgi", self._arguments, profile=self._profile) as self.simulator:
            self._is_up.set()
            await self._end.wait()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._end.set)
        self._thread.join()


class TestSimulatedTgi(BackendConformance):
    expected_failures: ClassVar = {
        "a JSON schema is kept": "the simulator has no grammar",
        "response_format is accepted or refused by name": "the simulator has no grammar",
    }
    server: ClassVar[SimulatorThread]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def simulator(cls) -> Iterator[None]:
        cls.server = SimulatorThread(["--model-id", "simulated"], replace(PACED, tick_s=0.005))
        yield
        cls.server.close()

    def make_backend(self) -> Backend:
        return get_backend("tgi", mode="external", url=self.server.simulator.url, model="simulated")

    def make_loading_backend(self) -> Backend:
        return launched("--load-time-s", "2")


class TestLaunchedTgi(BackendConformance):
    """A process of our own, so that its engine can be killed; the other probes are those of above."""

    test_running = None  # pyright: ignore[reportAssignmentType]

    def make_backend(self) -> Backend:
        return launched()

    def make_loading_backend(self) -> Backend:
        return launched("--load-time-s", "2")

    async def kill_engine(self, backend: Backend) -> None:
        assert isinstance(backend, GuardedBackend)
        backend.inner._server.kill()  # pyright: ignore[reportAttributeAccessIssue] - as a crash would end it


def launched(*simulator_options: str) -> Backend:
    simulate = [str(Path(sys.executable).parent / "enginebay"), "simulate", "tgi", "--profile", "paced"]
    options = {"executable": [*simulate, *simulator_options, "--"]}
    return get_backend("tgi", mode="managed", model="hf:some/model", options=options)
