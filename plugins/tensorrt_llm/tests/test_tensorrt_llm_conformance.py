"""The conformance suite against simulators of trtllm-serve and of Triton. No real engine has run here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from tensorrt_llm_simulator import PACED, STATS_FILE

from enginebay import get_backend
from enginebay.backend import Backend
from enginebay.testing import BackendConformance
from enginebay.testing.simulators import SimulatorProfile
from enginebay.testing.simulators.thread import SimulatorThread

LONG = replace(PACED, max_model_len=8192)


class _OfSimulator(BackendConformance):
    kind: ClassVar[str] = "tensorrt_llm"
    arguments: ClassVar[tuple[str, ...]] = ("--max_seq_len", "8192")
    server: ClassVar[SimulatorThread]
    options_file: ClassVar[tuple[str, ...]]
    loading: ClassVar[list[SimulatorThread]]

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def simulator(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        file: Path = tmp_path_factory.mktemp("trtllm") / "llm_options.yaml"
        file.write_text(STATS_FILE)
        cls.options_file = ("--extra_llm_api_options", str(file)) if cls.kind == "tensorrt_llm" else ()
        cls.server, cls.loading = cls._launched(LONG), []
        yield
        for server in (cls.server, *cls.loading):
            server.close()

    @classmethod
    def _launched(cls, profile: SimulatorProfile) -> SimulatorThread:
        return SimulatorThread(cls.kind, *cls.arguments, *cls.options_file, profile=profile)

    def make_backend(self) -> Backend:
        self.server.call(self.server.simulator.revive_engine)
        return self._backend(self.server)

    def make_loading_backend(self) -> Backend:
        self.loading.append(self._launched(replace(LONG, load_time_s=1.0)))
        return self._backend(self.loading[-1])

    async def kill_engine(self, backend: Backend) -> None:
        self.server.call(self.server.simulator.kill_engine)

    def _backend(self, server: SimulatorThread) -> Backend:
        return get_backend("tensorrt_llm", mode="external", url=server.url, model="simulated")


_OfSimulator.__test__ = False  # what derives from it is collected


class TestLine12(_OfSimulator):
    """1.2.1, the newest stable release."""


class TestLine14(_OfSimulator):
    arguments = ("--simulated_release", "1.4", "--max_seq_len", "8192")
    expected_failures: ClassVar[Mapping[str, str]] = {}


class TestTriton(_OfSimulator):
    kind = "triton"
    arguments = ()

    def _backend(self, server: SimulatorThread) -> Backend:
        options = {"api": "triton", "metrics_url": server.url}
        return get_backend("tensorrt_llm", mode="external", url=server.url, model="simulated", options=options)
