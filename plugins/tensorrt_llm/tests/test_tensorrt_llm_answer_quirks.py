"""Quirks of the contract in answers and behaviour, and Triton's, by one test of their name."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from tensorrt_llm_asking import CHAT, answer, ask, attached, post, run, serving
from tensorrt_llm_simulator import contract

from enginebay import get_backend
from enginebay.backends.http_engine.api import EngineApi
from enginebay.errors import (
    BackendTimeout,
    BackendUnavailable,
    ContextTooLong,
    EngineStepFailed,
    InvalidRequest,
    StartFailed,
    UpstreamError,
)
from enginebay.testing.simulators import PROFILES, Fault
from enginebay.testing.told_http import health_states
from enginebay.types import (
    Feature,
    FinishReason,
    HealthState,
)
from enginebay_tensorrt_llm.answer_errors import error_of
from enginebay_tensorrt_llm.api import TrtllmApi
from enginebay_tensorrt_llm.decoder import TrtllmDecoder
from enginebay_tensorrt_llm.options import TensorrtLlmOptions
from enginebay_tensorrt_llm.plugin import enginebay_backend
from enginebay_tensorrt_llm.triton_api import TritonApi
from enginebay_tensorrt_llm.triton_decoder import TritonDecoder

SPEC = enginebay_backend()


# ---------------------------------------------------------------- answers


def test_quirk_error_shape() -> None:
    flat = b'{"object":"error","message":"top_p is bad","type":"BadRequestError","param":null,"code":400}'
    for body in (flat, b'{"error":"top_p is bad"}'):
        error = error_of(400, body, {}, backend="trt")
        assert isinstance(error, InvalidRequest)
        assert "top_p is bad" in str(error)

    async def main() -> None:
        for release, key in (("1.2", "object"), ("1.3", "error")):
            async with serving("--simulated_release", release) as simulator:
                status, body = await post(simulator, "/v1/completions", {"prompt": "no model"})
                assert status == 400
                assert key in msgspec.json.decode(body)

    run(main())


def test_quirk_errors_400() -> None:
    def error(message: str) -> Exception:
        body = {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}
        return error_of(400, msgspec.json.encode(body), {}, backend="trt")

    assert isinstance(error("CUDA out of memory"), UpstreamError)
    assert isinstance(error("temperature must not be negative"), InvalidRequest)
    sums = "The sum of prompt length (4000.0) and query length (0) max_tokens (200)"
    too_long = error(f"{sums} should not exceed max_seq_len (4096)")
    assert isinstance(too_long, ContextTooLong)
    assert (too_long.num_tokens, too_long.limit) == (4000, 4096)
    assert "200 output tokens" in str(too_long)
    deduced = "`default_max_tokens` (-152) = max_seq_len (8192) - `splited_prompt_len` (8344)"
    no_room = error(f"`default_max_tokens` (-152) must be greater than 0, {deduced}")
    assert isinstance(no_room, ContextTooLong)
    assert (no_room.num_tokens, no_room.limit) == (8344, 8192)
    assert isinstance(error("the grammar could not be compiled"), InvalidRequest)  # no word of MPI


def test_quirk_finish_names() -> None:
    wanted = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
    wanted |= {"timeout": FinishReason.ABORT, "cancelled": FinishReason.ABORT}
    listed = contract()["in_process_api"]["output"]["finish_reasons"]
    assert set(listed) == set(wanted)
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    for name, reason in wanted.items():
        body = {"choices": [{"index": 0, "text": "a", "finish_reason": name}], "usage": usage}
        chunk = TrtllmDecoder("completions", backend="trt", num_alternatives=None).whole(msgspec.json.encode(body), 0.0)
        assert chunk.finish_reason is reason


def test_quirk_stream_break() -> None:
    async def main() -> None:
        async with serving() as simulator, attached(simulator) as backend:
            simulator.faults.inject(Fault.CUT, num_requests=1, after_events=2)
            with pytest.raises(BackendUnavailable):
                await answer(backend, ask())
            assert len(await answer(backend, ask())) > 0

    run(main())


def test_quirk_first_chunk() -> None:
    decoder = TrtllmDecoder("chat", backend="trt", num_alternatives=None)
    role = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]} \n\n'
    assert list(decoder.feed(role, 1.0)) == []  # no chunk, so nothing that a first token is timed by

    async def main() -> None:
        async with serving() as simulator, attached(simulator) as backend:
            chunks = await answer(backend, ask(CHAT))
            assert chunks[0].num_tokens
            assert sum(chunk.num_tokens or 0 for chunk in chunks) == 8

    run(main())


# ---------------------------------------------------------------- behaviour


def test_quirk_unbounded_queue() -> None:
    async def main() -> None:
        async with serving("--max_batch_size", "2") as simulator, attached(simulator) as backend:
            simulator.faults.inject(Fault.OVERLOAD, num_requests=10)
            answers = await asyncio.gather(*(answer(backend, ask()) for _ in range(60)))
            assert all(chunks[-1].finish_reason is FinishReason.LENGTH for chunks in answers)

    run(main())


def test_quirk_fatal_executor_error() -> None:
    async def main() -> None:
        for release in ("1.2", "1.3"):
            arguments = ("--simulated_release", release)
            async with serving(*arguments) as simulator, attached(simulator) as backend:
                simulator.kill_engine()
                assert (await backend.health()).state is HealthState.DEAD
                with pytest.raises(BackendUnavailable):
                    await answer(backend, ask())

    run(main())


@pytest.mark.parametrize("protocol", ["openai", "triton"])
def test_a_server_that_is_slow_to_answer_is_not_dead(protocol: str) -> None:
    slow, gone = BackendTimeout("no answer within 5 s"), BackendUnavailable("refused")
    assert health_states(api_of(protocol), gone, slow, 200, slow, gone) == [
        HealthState.LOADING, HealthState.LOADING, HealthState.READY, HealthState.DEGRADED, HealthState.DEAD,
    ]  # fmt: skip


def api_of(protocol: str) -> EngineApi:
    options = TensorrtLlmOptions.model_validate({})
    if protocol == "triton":
        return TritonApi(options, name="trt", seed=0)
    return TrtllmApi(options, name="trt", version=None, seed=0, served_model_name=None, is_ours=False)


def test_quirk_disconnect_delay() -> None:
    async def main() -> None:
        async with serving(profile=PROFILES["paced"]) as simulator, attached(simulator) as backend:
            stream = backend.generate(ask(max_tokens=2000))
            await anext(stream)
            await stream.aclose()  # at once for us; the server's slot is free when it has noticed
            while simulator.engine.num_unfinished:
                await backend.health()
            assert simulator.num_in_flight == 0

    run(main())


# ---------------------------------------------------------------- Triton


def test_quirk_triton_not_ready_400() -> None:
    async def main() -> None:
        loading = PROFILES["paced"].__class__(pace="instant", load_time_s=60.0)
        async with serving(kind="triton", profile=loading) as simulator:
            assert (await post(simulator, "/v2/health/ready"))[0] == 400
            options = {"api": "triton", "start_timeout_s": 0.3}
            with pytest.raises(StartFailed, match="not ready"):
                async with get_backend("tensorrt_llm", mode="external", url=simulator.url, options=options):
                    pass

    run(main())


def test_quirk_triton_stream_end() -> None:
    async def main() -> None:
        async with serving(kind="triton") as simulator, attached(simulator) as backend:
            chunks = await answer(backend, ask())
            assert chunks[-1].finish_reason is FinishReason.LENGTH
            simulator.faults.inject(Fault.CUT, num_requests=1, after_events=2)
            with pytest.raises(BackendUnavailable):
                await answer(backend, ask())

    run(main())
    decoder = TritonDecoder(backend="trt", max_tokens=4)
    with pytest.raises(EngineStepFailed, match="out of blocks"):
        list(decoder.feed(b'data: {"error":"out of blocks"}\n\n', 0.0))


def test_quirk_triton_no_ids() -> None:
    async def main() -> None:
        async with serving(kind="triton") as simulator, attached(simulator) as backend:
            assert Feature.OUTPUT_TOKEN_IDS not in backend.info.capabilities
            chunks = await answer(backend, ask(max_tokens=6))
            assert all(chunk.token_ids is None for chunk in chunks)
            assert sum(chunk.num_tokens or 0 for chunk in chunks) == 6
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.num_output_tokens == 6

    run(main())
