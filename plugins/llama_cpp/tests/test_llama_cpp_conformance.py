"""The conformance suite against the simulated llama-server, attached to and launched."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import pytest

from enginebay import get_backend
from enginebay.backend import Backend
from enginebay.guard import GuardedBackend
from enginebay.testing import BackendConformance
from enginebay.testing.simulators.thread import SimulatorThread

SIMULATE = (str(Path(sys.executable).with_name("enginebay")), "simulate", "llama_cpp", "--profile", "paced")


class TestSimulatedLlamaCpp(BackendConformance):
    expected_failures: ClassVar[Mapping[str, str]] = {
        "a JSON schema is kept": "the simulator has no grammar",
    }
    server: ClassVar[SimulatorThread]

    @classmethod
    def setup_class(cls) -> None:
        cls.server = SimulatorThread("llama_cpp", "--alias", "simulated", "--metrics", "--parallel", "32")

    @classmethod
    def teardown_class(cls) -> None:
        super().teardown_class()
        cls.server.close()

    def make_backend(self) -> Backend:
        return get_backend("llama_cpp", mode="external", url=self.server.url, model="simulated")


class TestLaunchedLlamaCpp(BackendConformance):
    """A process of our own, so that its engine can be killed; the other probes are those of above."""

    test_running = None  # pyright: ignore[reportAssignmentType]

    @pytest.fixture(autouse=True)
    def file(self, tmp_path: Path) -> None:
        self.gguf = tmp_path / "model.gguf"
        self.gguf.write_bytes(b"GGUF")

    def make_backend(self) -> Backend:
        return self.launched()

    def make_loading_backend(self) -> Backend:
        return self.launched("--load-time-s", "2")

    async def kill_engine(self, backend: Backend) -> None:
        assert isinstance(backend, GuardedBackend)
        backend.inner._server.kill()  # pyright: ignore[reportAttributeAccessIssue] - as a crash would end it

    def launched(self, *simulator_options: str) -> Backend:
        options = {"executable": [*SIMULATE, *simulator_options, "--"], "gguf": str(self.gguf)}
        return get_backend("llama_cpp", mode="managed", model="smollm2-135m", options=options)
