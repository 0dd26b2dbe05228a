"""The adapter on a simulated TGI: what it learns at start, how faults reach the caller, and a server of its own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from enginebay import get_backend
from enginebay.errors import (
    BackendOverloaded,
    BackendTimeout,
    BackendUnavailable,
    ConfigError,
    EngineBayError,
    EngineDied,
    EngineStepFailed,
    InvalidRequest,
    StartFailed,
    UnsupportedFeature,
    UpstreamError,
)
from enginebay.guard import GuardedBackend
from enginebay.testing import Script, ScriptedServer
from enginebay.testing.simulators import INSTANT, PACED, Fault, Simulator
from enginebay.types import (
    Chat,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    HealthState,
    Message,
    SamplingParams,
    Text,
    TokenIds,
)

PROMPTS = (Text("the quick brown fox"), Chat((Message("user", "hi"),)))
SIMULATE = (str(Path(sys.executable).parent / "enginebay"), "simulate", "tgi")


def request(prompt: Text | Chat | TokenIds = PROMPTS[0], **sampling: Any) -> GenerationRequest:
    sampling = {"max_tokens": 20, "temperature": 0.0, **sampling}
    return GenerationRequest(request_id="r", prompt=prompt, sampling=SamplingParams(**sampling))


async def collect(backend: GuardedBackend, asked: GenerationRequest) -> list[GenerationChunk]:
    return [chunk async for chunk in backend.generate(asked)]


def with_tgi(
    use: Callable[[GuardedBackend, Simulator], Awaitable[None]], *flags: str, paced: bool = False, **options: Any
) -> None:
    async def main() -> None:
        profile = PACED if paced else INSTANT
        async with (
            Simulator("tgi", ["--model-id", "m", *flags], profile=profile) as simulator,
            get_backend("tgi", mode="external", url=simulator.url, model="m", options=options) as backend,
        ):
            await use(backend, simulator)

    asyncio.run(main())


# ---------------------------------------------------------------- start


def test_the_effective_settings_are_read_back_under_their_portable_names() -> None:
    async def use(backend: GuardedBackend, simulator: Simulator) -> None:
        settings = backend.info.effective_settings
        assert (settings["max_num_seqs"], settings["max_model_len"]) == (7, 512)
        assert settings["served_model_name"] == "m"
        assert (settings["max_input_tokens"], settings["max_client_batch_size"]) == (400, 9)
        assert "dtype" not in settings  # /info does not tell it
        assert backend.info.max_model_len == 512
        assert backend.info.simulated

    flags = ("--max-concurrent-requests", "7", "--max-total-tokens", "512", "--max-input-tokens", "400")
    with_tgi(use, *flags, "--max-client-batch-size", "9")


def test_another_server_than_tgi_is_told_at_start() -> None:
    async def main() -> None:
        async with ScriptedServer(Script()) as server:
            backend = get_backend("tgi", mode="external", url=server.url, model="m")
            with pytest.raises(StartFailed, match="no TGI server"):
                await backend.start()

    asyncio.run(main())


@pytest.mark.parametrize("mode", ["external", "managed"])
def test_a_server_that_never_comes_is_told_in_time(mode: Any) -> None:
    async def main() -> None:
        options: dict[str, Any] = {"start_timeout_s": 0.3}
        if mode == "managed":
            options["executable"] = [sys.executable, "-c", "import time; time.sleep(60)"]
        url = "http://127.0.0.1:9" if mode == "external" else None
        backend = get_backend("tgi", mode=mode, url=url, model=str(Path(__file__).parent), options=options)
        with pytest.raises(StartFailed):
            await backend.start()

    asyncio.run(main())


def test_image_and_mode_are_checked_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="not pinned"):
        get_backend("tgi", image="ghcr.io/huggingface/text-generation-inference:latest", model="hf:gpt2")
    with pytest.raises(ConfigError, match="url"):
        get_backend("tgi", mode="external", model="m")
    with pytest.raises(ConfigError, match="max_concurrent"):
        get_backend("tgi", max_concurrent=3)


# ---------------------------------------------------------------- requests


def test_token_ids_are_refused() -> None:
    async def use(backend: GuardedBackend, simulator: Simulator) -> None:
        with pytest.raises(UnsupportedFeature, match="prompt_token_ids"):
            backend.generate(request(TokenIds((1, 2))))
        with pytest.raises(InvalidRequest, match="empty"):
            backend.generate(request(Text("")))
        assert Feature.OUTPUT_TOKEN_IDS in backend.info.capabilities
        assert Feature.PROMPT_LOGPROBS not in backend.info.capabilities

    with_tgi(use)


def test_a_prompt_is_truncated_from_its_beginning() -> None:
    async def use(backend: GuardedBackend, simulator: Simulator) -> None:
        asked = GenerationRequest(
            request_id="r", prompt=PROMPTS[0], sampling=SamplingParams(max_tokens=2), truncate_prompt_tokens=3
        )
        usage = (await collect(backend, asked))[-1].usage
        assert usage is not None
        assert usage.num_prompt_tokens == 3

    with_tgi(use)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("delivery", ["stream", "final"])
def test_counts_are_exact_on_both_routes_and_in_both_deliveries(prompt: Text | Chat, delivery: Any) -> None:
    async def use(backend: GuardedBackend, simulator: Simulator) -> None:
        asked = GenerationRequest(
            request_id="r", prompt=prompt, sampling=SamplingParams(max_tokens=9), delivery=delivery, logprobs=2
        )
        chunks = await collect(backend, asked)
        usage = chunks[-1].usage
        assert usage is not None
        assert (usage.num_output_tokens, sum(chunk.num_tokens or 0 for chunk in chunks)) == (9, 9)
        assert usage.num_prompt_tokens == len(await backend.count_tokens(prompt))
        assert sum(len(chunk.logprobs or ()) for chunk in chunks) == 9
        assert delivery == "stream" or len(chunks) == 1

    with_tgi(use, paced=True)


# ---------------------------------------------------------------- faults


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.REFUSE, BackendUnavailable),
        (Fault.LOADING, BackendUnavailable),
        (Fault.OVERLOAD, BackendOverloaded),
        (Fault.CUT, BackendUnavailable),
        (Fault.MALFORMED, UpstreamError),
        (Fault.STALL, BackendTimeout),
    ],
)
def test_every_fault_is_a_typed_error_and_the_next_request_is_served(
    prompt: Text | Chat, fault: Fault, error: type[EngineBayError]
) -> None:
    async def use(backend: GuardedBackend, simulator: Simulator) -> None:
        simulator.faults.inject(fault, num_requests=1)
        with pytest.raises(error):
            await collect(backend, request(prompt))
        assert (await collect(backend, request(prompt)))[-1].finish_reason is FinishReason.LENGTH
        assert (await backend.health()).state is HealthState.READY
        assert simulator.engine.num_unfinished == 0

    with_tgi(use, idle_timeout_s=0.2)


def test_a_wrong_usage_reaches_the_caller_as_the_engine_told_it() -> None:
    async def use(backend: GuardedBackend, simulator: Simulator) -> None:
        simulator.faults.inject(Fault.WRONG_USAGE)
        chunks = await collect(backend, request())
        usage = chunks[-1].usage
        assert usage is not None
        assert (usage.num_output_tokens, sum(chunk.num_tokens or 0 for chunk in chunks)) == (21, 20)

    with_tgi(use)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_shard_that_dies_fails_what_runs_and_health_says_so_until_it_is_back(prompt: Text | Chat) -> None:
    async def use(backend: GuardedBackend, simulator: Simulator) -> None:
        stream = backend.generate(request(prompt, max_tokens=500))
        await anext(stream)
        simulator.kill_engine("out of memory")
        with pytest.raises(EngineStepFailed, match="out of memory"):
            async for _ in stream:
                pass
        health = await backend.health()
        assert health.state is HealthState.DEAD
        assert "unhealthy" in health.reason
        simulator.revive_engine()
        assert (await backend.health()).state is HealthState.READY

    with_tgi(use, paced=True)


def test_a_failed_generation_is_told_as_a_failed_step() -> None:
    async def use(backend: GuardedBackend, simulator: Simulator) -> None:
        simulator.faults.inject(Fault.DEAD, num_requests=1)
        with pytest.raises(EngineStepFailed, match="Request failed during generation"):
            await collect(backend, request())

    with_tgi(use)


def test_a_client_that_leaves_frees_its_place_and_is_counted_as_dropped() -> None:
    async def use(backend: GuardedBackend, simulator: Simulator) -> None:
        stream = backend.generate(request(max_tokens=3000))
        await anext(stream)
        await stream.aclose()
        async with asyncio.timeout(10):
            while (stats := await backend.stats()).requests_running:
                pass
        assert stats.extra["tgi_request_failure"] == 1

    with_tgi(use, paced=True)


# ---------------------------------------------------------------- a server of our own


def managed(*simulator_options: str, **fields: Any) -> GuardedBackend:
    options = {"executable": [*SIMULATE, *simulator_options, "--"], **fields.pop("options", {})}
    return get_backend("tgi", mode="managed", model="hf:some/model", options=options, **fields)


def test_a_launched_server_is_ready_serves_and_ends_with_us() -> None:
    async def main() -> None:
        backend = managed(
            "--profile", "instant", engine={"max_model_len": 512, "max_num_seqs": 3, "enable_prefix_caching": False}
        )
        async with backend:
            settings = backend.info.effective_settings
            assert (settings["max_model_len"], settings["max_num_seqs"]) == (512, 3)
            assert settings["served_model_name"] == "some/model"
            assert backend.info.simulated
            assert (await collect(backend, request()))[-1].finish_reason is FinishReason.LENGTH
        assert (await backend.health()).state is HealthState.DEAD

    asyncio.run(main())


def test_the_key_reaches_the_server_by_its_environment() -> None:
    async def main() -> None:
        async with managed("--profile", "instant", options={"api_key": "very-secret"}) as backend:
            assert (await collect(backend, request()))[-1].finish_reason is FinishReason.LENGTH

    asyncio.run(main())


def test_a_flag_that_tgi_does_not_know_is_named_with_the_likely_cause() -> None:
    async def main() -> None:
        backend = managed(options={"extra_arguments": ["--no-such-flag"]})
        with pytest.raises(StartFailed) as caught:
            await backend.start()
        assert caught.value.likely_cause is not None
        assert "--no-such-flag" in caught.value.likely_cause
        assert any("unexpected argument '--no-such-flag' found" in line for line in caught.value.log_tail)

    asyncio.run(main())


def test_a_launched_server_that_is_killed_in_a_stream_is_told_as_such() -> None:
    async def main() -> None:
        async with managed("--profile", "paced") as backend:
            stream = backend.generate(request(max_tokens=3000))
            await anext(stream)
            backend.inner._server.kill()  # pyright: ignore[reportAttributeAccessIssue] - as a crash would end it
            with pytest.raises(EngineDied):
                async for _ in stream:
                    pass
            assert (await backend.health()).is_final

    asyncio.run(main())
