"""The conformance suite against the simulated vLLM, attached to and launched."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from enginebay import GenerationRequest, SamplingParams, Text, get_backend
from enginebay.backend import Backend
from enginebay.errors import StartFailed
from enginebay.testing import BackendConformance
from enginebay.testing.simulators.thread import SimulatorThread

HAS_NO_GRAMMAR = "the simulator has no grammar"
SIMULATED = (str(Path(sys.executable).with_name("enginebay")), "simulate", "vllm", "--profile", "paced", "--")


class TestSimulatedVllm(BackendConformance):
    never_skipped = frozenset({"stop_reason names the stop string", "token ids are those of the text"})
    expected_failures: ClassVar[Mapping[str, str]] = {
        "a JSON schema is kept": HAS_NO_GRAMMAR,
        "response_format is accepted or refused by name": HAS_NO_GRAMMAR,
    }

    @classmethod
    def setup_class(cls) -> None:
        cls.server = SimulatorThread("vllm", "simulated", "--enable-prompt-tokens-details")

    @classmethod
    def teardown_class(cls) -> None:
        super().teardown_class()
        cls.server.close()

    def make_backend(self) -> Backend:
        self.server.call(self.server.simulator.revive_engine)
        return get_backend("vllm", mode="external", url=self.server.url, model="simulated")

    async def kill_engine(self, backend: Backend) -> None:
        self.server.call(self.server.simulator.kill_engine)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """What passes for a model's directory; a simulator loads nothing."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").touch()
    return tmp_path


def launched(model: Path, **keywords: Any) -> Any:
    return get_backend("vllm", model=str(model), options={"executable": SIMULATED}, **keywords)


def test_the_plans_own_command_line_launches_a_simulated_vllm(model: Path) -> None:
    settings = {"max_num_seqs": 8, "max_model_len": 1024, "served_model_name": "small", "log_level": "info"}

    async def main() -> None:
        async with launched(model, engine=settings) as backend:
            request = GenerationRequest(request_id="a", prompt=Text("Hello"), sampling=SamplingParams(max_tokens=5))
            last = [chunk async for chunk in backend.generate(request)][-1]
            assert last.usage is not None
            assert last.usage.num_output_tokens == 5
            assert last.usage.num_cached_tokens is not None, "the server is told to count cached tokens"
            info = backend.info
            assert (info.simulated, info.engine_version, info.model) == (True, "0.32.0", "small")
            assert info.effective_settings["max_model_len"] == 1024
            assert info.effective_settings["served_model_name"] == "small"

    asyncio.run(main())


def test_a_flag_that_the_engine_refuses_is_in_the_error(model: Path) -> None:
    async def main() -> None:
        backend = launched(model, extra_arguments=("--no-such-flag",))
        with pytest.raises(StartFailed, match="no-such-flag"):
            await backend.start()

    asyncio.run(main())
