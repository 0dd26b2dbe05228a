"""The conformance suite against the simulated SGLang, attached to and launched."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from enginebay import get_backend
from enginebay.backend import Backend
from enginebay.guard import GuardedBackend
from enginebay.testing import BackendConformance
from enginebay.testing.simulators.thread import SimulatorThread

SIMULATE = (str(Path(sys.executable).with_name("enginebay")), "simulate", "sglang", "--profile", "paced")

HAS_NO_GRAMMAR = "the simulator has no grammar"


class SimulatedSglang(BackendConformance):
    __test__ = False
    arguments: ClassVar[tuple[str, ...]] = ()
    expected_failures: ClassVar[Mapping[str, str]] = {
        "a JSON schema is kept": HAS_NO_GRAMMAR,
        "response_format is accepted or refused by name": HAS_NO_GRAMMAR,
    }
    server: ClassVar[SimulatorThread]

    @classmethod
    def setup_class(cls) -> None:
        cls.server = SimulatorThread("sglang", "--served-model-name", "simulated", "--enable-metrics", *cls.arguments)

    @classmethod
    def teardown_class(cls) -> None:
        super().teardown_class()
        cls.server.close()

    def make_backend(self) -> Backend:
        return get_backend("sglang", mode="external", url=self.server.url, model="simulated")


class TestCumulativeSglang(SimulatedSglang):
    """As a server is by default: each event repeats the text so far, and seeds do not act."""

    test_life_cycle = None  # pyright: ignore[reportAssignmentType]


class TestIncrementalSglang(SimulatedSglang):
    """As we launch it."""

    test_life_cycle = None  # pyright: ignore[reportAssignmentType]
    arguments = ("--incremental-streaming-output", "--enable-deterministic-inference")


class TestLaunchedSglang(BackendConformance):
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
    options = {"executable": [*SIMULATE, *simulator_options, "--"]}
    return get_backend("sglang", mode="managed", model="hf:some/model", options=options)
