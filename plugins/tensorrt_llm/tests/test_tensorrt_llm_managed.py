"""Mode managed, whole: our command line, the options file and the Triton flags, taken by the simulated programs."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from pathlib import Path

import pytest

from enginebay import get_backend
from enginebay.errors import EngineDied, StartFailed
from enginebay.guard import GuardedBackend
from enginebay.types import FinishReason, GenerationChunk, GenerationRequest, HealthState, SamplingParams, Text

ENGINEBAY = str(Path(sys.executable).with_name("enginebay"))


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "llama"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    return str(folder)


def make(model: str, kind: str = "tensorrt_llm", *, release: str = "1.2", **fields: object) -> GuardedBackend:
    simulate = [ENGINEBAY, "simulate", kind, "--profile", "paced", "--tick-s", "0.005", "--load-time-s", "0.3", "--"]
    options = {"executable": simulate, **dict(fields.pop("options", {}))}  # type: ignore[call-overload]
    environment = {"ENGINEBAY_SIMULATED_RELEASE": release}
    return get_backend("tensorrt_llm", model=model, options=options, environment=environment, **fields)


def ask(**fields: object) -> GenerationRequest:
    sampling = SamplingParams(**{"max_tokens": 6, **fields})  # type: ignore[arg-type]
    return GenerationRequest(request_id="r", prompt=Text("the quick brown fox"), sampling=sampling)


async def answer(backend: GuardedBackend, request: GenerationRequest) -> list[GenerationChunk]:
    return [chunk async for chunk in backend.generate(request)]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("release", ["1.2", "1.3", "1.4"])
def test_every_line_is_launched_asked_and_stopped(model: str, release: str) -> None:
    settings = {
        "max_num_seqs": 3, "max_model_len": 512, "gpu_memory_fraction": 0.5, "enable_prefix_caching": True,
        "chunked_prefill": True, "log_level": "debug", "served_model_name": "anything",
    }  # fmt: skip
    versions = {"1.2": "1.2.1", "1.3": "1.3.0rc9", "1.4": "1.4.0rc1"}
    options = {"version": versions[release]} | ({} if release == "1.2" else {"tool_parser": "qwen3"})

    async def main() -> None:
        async with make(model, release=release, engine=settings, options=options) as backend:
            assert backend.info.simulated
            assert backend.info.engine_version == versions[release]
            assert backend.info.model == "anything"
            chunks = await answer(backend, ask())
            assert chunks[-1].finish_reason is FinishReason.LENGTH
            stats = await backend.stats()
            assert stats.requests_total_by_finish_reason == {"length": 1}
            assert stats.kv_cache_usage_ratio is not None
            assert (stats.prompt_tokens_total is not None) == (release == "1.4")
            assert (await backend.health()).state is HealthState.READY

    asyncio.run(main())


def test_the_newest_line_tells_what_it_runs_with(model: str) -> None:
    async def main() -> None:
        async with make(model, release="1.4", engine={"max_num_seqs": 3}, options={"version": "1.4.0rc1"}) as backend:
            assert "max_num_seqs" not in backend.info.effective_settings  # no iteration has run: unknown

    asyncio.run(main())


def test_a_flag_of_a_later_line_fails_in_the_engines_own_words(model: str) -> None:
    async def main() -> None:
        with pytest.raises(StartFailed, match="No such option: --tool_parser"):
            async with make(model, options={"version": "1.3.0", "tool_parser": "qwen3"}):
                pass

    asyncio.run(main())


def test_a_killed_engine_is_a_typed_error(model: str) -> None:
    async def main() -> None:
        async with make(model, engine={"max_model_len": 4096}) as backend:
            stream = backend.generate(ask(max_tokens=3000))
            await anext(stream)
            backend.inner._server.kill()  # type: ignore[attr-defined]
            with pytest.raises(EngineDied):
                async for _ in stream:
                    pass
            assert (await backend.health()).state is HealthState.DEAD

    asyncio.run(main())


def test_triton_is_launched_with_its_own_flags(model: str, tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    engine.mkdir()
    port = free_port()
    options = {
        "api": "triton", "path": "engine", "engine_directory": str(engine), "max_input_len": 256,
        "max_output_len": 64, "port": port, "metrics_url": f"http://127.0.0.1:{port}",
    }  # fmt: skip

    async def main() -> None:
        async with make(model, "triton", options=options, engine={"max_num_seqs": 4}) as backend:
            chunks = await answer(backend, ask(stop=("nothing like it",)))
            assert sum(chunk.num_tokens or 0 for chunk in chunks) == 6
            assert (await backend.stats()).requests_running == 0
            assert backend.info.simulated

    asyncio.run(main())
