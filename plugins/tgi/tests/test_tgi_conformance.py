"""The conformance suite against the simulated TGI."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from enginebay import get_backend
from enginebay.backend import Backend
from enginebay.guard import GuardedBackend
from enginebay.testing import BackendConformance
from enginebay.testing.simulators.thread import SimulatorThread


class TestSimulatedTgi(BackendConformance):
    expected_failures: ClassVar = {
        "a JSON schema is kept": "the simulator has no grammar",
        "response_format is accepted or refused by name": "the simulator has no grammar",
    }
    server: ClassVar[SimulatorThread]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def simulator(cls) -> Iterator[None]:
        cls.server = SimulatorThread("tgi", "--model-id", "simulated")
        yield
        cls.server.close()

    def make_backend(self) -> Backend:
        return get_backend("tgi", mode="external", url=self.server.url, model="simulated")

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
