"""Every quirk of the contract has a test that handles it or shows it harmless."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from sglang_asking import CHAT, INFO, LENGTH, TEXT, body_of, decoded, event, external, params_of, request, run, sample
from sglang_contract import context, contract, quirk_ids

from enginebay.clock import MonotonicClock
from enginebay.errors import (
    BackendOverloaded,
    BackendTimeout,
    BackendUnavailable,
    InvalidRequest,
    StartFailed,
    UnsupportedFeature,
    UpstreamError,
)
from enginebay.plugins import compile_plan
from enginebay.testing.simulators import PACED, Fault, Simulator
from enginebay.testing.told_http import health_states
from enginebay.types import (
    Feature,
    FinishReason,
    HealthState,
)
from enginebay.wire.http_client import HttpClient
from enginebay.wire.prometheus_text import parse_metrics
from enginebay_sglang.api import SglangApi
from enginebay_sglang.capabilities import capabilities
from enginebay_sglang.metrics import METRICS
from enginebay_sglang.options import SglangOptions
from enginebay_sglang.plugin import SPEC


def test_metrics_off() -> None:
    assert "--enable-metrics" in compile_plan(SPEC, context()).command

    async def main() -> None:
        async with Simulator("sglang", port=0) as simulator, external(simulator) as backend:
            assert backend.info.effective_settings["metrics"] is False
            assert (await backend.stats()).requests_running is None

    run(main)


def test_health_cost() -> None:
    """Health is asked of /ready, which generates nothing."""

    class Asked:
        def __init__(self) -> None:
            self.paths: list[str] = []

        async def request(self, method: str, path: str, **_: object) -> object:
            self.paths.append(path)
            raise BackendUnavailable("nobody is there")

    api, asked = SglangApi(name="sglang"), Asked()
    health = asyncio.run(api.health(asked))  # type: ignore[arg-type]
    assert health.state is HealthState.LOADING  # not there yet: it has never answered
    assert asked.paths == ["/ready"]


def test_a_server_that_is_slow_to_answer_is_not_dead() -> None:
    slow, gone = BackendTimeout("no answer within 5 s"), BackendUnavailable("refused")
    assert health_states(SglangApi(name="sglang"), gone, slow, 200, slow, gone) == [
        HealthState.LOADING, HealthState.LOADING, HealthState.READY, HealthState.DEGRADED, HealthState.DEAD,
    ]  # fmt: skip


def test_cumulative_text() -> None:
    chunks = decoded(event("ab", [1]), event("abcd", [1, 2]), event("abcde", [1, 2, 3], LENGTH))
    assert [chunk.text for chunk in chunks] == ["ab", "cd", "e"]
    assert [chunk.token_ids for chunk in chunks] == [(1,), (2,), (3,)]
    deltas = decoded(event("ab", [1]), event("cd", [2]), event("e", [3], LENGTH), is_cumulative=False)
    assert [chunk.text for chunk in deltas] == ["ab", "cd", "e"]


def test_naming() -> None:
    params = params_of(request(min_tokens=2, seed=9))
    assert (params["max_new_tokens"], params["min_new_tokens"], params["sampling_seed"]) == (5, 2, 9)
    assert not {"max_tokens", "min_tokens", "seed"} & params.keys()


def test_default_max_tokens() -> None:
    assert params_of(request(max_tokens=300))["max_new_tokens"] == 300
    assert body_of(request(CHAT, max_tokens=300))["max_tokens"] == 300


def test_seed_needs_flag() -> None:
    assert Feature.SEED not in capabilities(None, SglangOptions.model_validate({}))
    assert Feature.SEED in capabilities(None, SglangOptions.model_validate({"deterministic": True}))
    assert "--enable-deterministic-inference" in compile_plan(SPEC, context(deterministic=True)).command

    async def main() -> None:
        async with Simulator("sglang", port=0) as simulator, external(simulator) as backend:
            assert Feature.SEED not in backend.info.capabilities  # the server itself says that it acts on none
            with pytest.raises(UnsupportedFeature, match="seed"):
                backend.generate(request(seed=1))
        flags = ["--enable-deterministic-inference"]
        async with Simulator("sglang", flags, port=0) as simulator, external(simulator) as backend:
            assert Feature.SEED in backend.info.capabilities

    run(main)


def test_chat_defaults() -> None:
    command = " ".join(compile_plan(SPEC, context()).command)
    assert "--sampling-defaults openai" in command
    sent = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert sent.items() <= body_of(request(CHAT)).items()


def test_top_p_range() -> None:
    assert params_of(request())["top_k"] == -1
    assert body_of(request(CHAT))["top_k"] == -1
    assert params_of(request(top_k=5))["top_k"] == 5
    for prompt in (TEXT, CHAT):
        with pytest.raises(InvalidRequest, match="at most 2"):
            body_of(request(prompt, repetition_penalty=3.0))


def test_stop_trim() -> None:
    for keeps in (True, False):
        assert params_of(request(include_stop_str_in_output=keeps))["no_stop_trim"] is keeps
        assert body_of(request(CHAT, include_stop_str_in_output=keeps))["no_stop_trim"] is keeps


def test_finish_native() -> None:
    [by_text] = decoded(event("a", [1], {"type": "stop", "matched": "END"}))
    assert (by_text.finish_reason, by_text.stop_reason) == (FinishReason.STOP, "END")
    [by_end] = decoded(event("a", [1, 2], {"type": "stop", "matched": 2}))
    assert by_end.stop_reason is None  # the end of sequence was not asked for
    [by_id] = decoded(event("a", [1, 2], {"type": "stop", "matched": 2}), stop_token_ids=(2,))
    assert by_id.stop_reason == 2
    [by_length] = decoded(event("a", [1, 2], LENGTH))
    assert by_length.finish_reason is FinishReason.LENGTH


def test_finish_abort() -> None:
    abort = {"type": "abort", "message": "out of memory", "status_code": 500, "err_type": "InternalServerError"}
    with pytest.raises(UpstreamError, match="aborted the request: out of memory"):
        decoded(event("", [], abort))
    with pytest.raises(BackendOverloaded):
        decoded(event("", [], {**abort, "status_code": 503}))
    decoder = SglangApi(name="sglang").call(request(CHAT), INFO).decoder
    choice = {"index": 0, "message": {"content": "a"}, "finish_reason": "abort"}
    body = {"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
    with pytest.raises(UpstreamError, match="aborted"):
        decoder.whole(msgspec.json.encode(body), 1.0)


def test_inverted_flags() -> None:
    def flags(**settings: object) -> tuple[str, ...]:
        return compile_plan(SPEC, context(settings=settings)).command

    assert "--disable-radix-cache" in flags(enable_prefix_caching=False)
    assert "--disable-radix-cache" not in flags(enable_prefix_caching=True)
    assert "--chunked-prefill-size -1" in " ".join(flags(chunked_prefill=False))
    assert "--chunked-prefill-size" not in flags(chunked_prefill=True)


def test_usage_cached() -> None:
    [chunk] = decoded(event("a", [1], LENGTH))
    assert chunk.usage is not None
    assert chunk.usage.num_cached_tokens == 2


def test_two_label_sets() -> None:
    stats = METRICS.stats(parse_metrics(sample()))
    assert (stats.requests_running, stats.requests_waiting) == (6.0, 3.0)
    assert stats.queue_seconds is not None
    assert stats.ttft_seconds is not None


def test_is_streaming_label() -> None:
    metrics = parse_metrics(sample())
    by_kind = metrics.by_label("sglang:prompt_tokens_total", "is_streaming")
    assert by_kind is not None
    assert METRICS.stats(metrics).prompt_tokens_total == sum(by_kind.values())
    ttft = METRICS.stats(metrics).ttft_seconds
    assert ttft is not None
    assert ttft.count == metrics.value("sglang:time_to_first_token_seconds_count")


def test_counters_at_end() -> None:
    """Over a run they are right once it has ended; the simulator has the same habit."""

    async def main() -> None:
        options = {"profile": type(PACED)(pace="paced", tick_s=0.01), "port": 0}
        async with Simulator("sglang", ["--enable-metrics"], **options) as simulator, external(simulator) as backend:
            stream = backend.generate(request(max_tokens=20, ignore_eos=True))
            await anext(stream)
            assert (await backend.stats()).generation_tokens_total == 0
            async for _ in stream:
                pass
            assert (await backend.stats()).generation_tokens_total == 20

    run(main)


def test_no_finish_label() -> None:
    assert METRICS.stats(parse_metrics(sample())).requests_total_by_finish_reason is None


def test_unbounded_queue() -> None:
    async def main() -> None:
        async with Simulator("sglang", port=0) as simulator, external(simulator) as backend:
            simulator.faults.inject(Fault.OVERLOAD, num_requests=1)
            with pytest.raises(BackendOverloaded, match="queue is full"):
                await anext(backend.generate(request()))

    run(main)


def test_model_unchecked() -> None:
    """Any name is answered; the list of models has the right one, and that is what is sent and told."""

    async def main() -> None:
        flags = ["--model-path", "some/model", "--served-model-name", "small"]
        async with Simulator("sglang", flags, port=0) as simulator:
            for name in ("small", "some/model", "hf:some/model"):
                async with external(simulator, name) as backend:
                    assert backend.info.model == "small"

    run(main)


def test_dtype_float32() -> None:
    [outcome] = compile_plan(SPEC, context(settings={"dtype": "auto"})).outcomes
    assert "float16" in outcome.why
    [outcome] = compile_plan(SPEC, context(settings={"dtype": "float32"})).outcomes
    assert (outcome.becomes, outcome.why) == ("--dtype float32", "")


def test_open_paths() -> None:
    """Health says ready to whom the server then refuses: the start says so."""

    async def main() -> None:
        async with Simulator("sglang", ["--api-key", "k"], port=0) as simulator:
            http = HttpClient(simulator.url, clock=MonotonicClock())
            assert (await SglangApi(name="sglang").health(http)).state is HealthState.READY
            await http.aclose()
            with pytest.raises(StartFailed, match=r"set options\.api_key"):
                await external(simulator).start()
            async with external(simulator, api_key="k") as backend:
                assert backend.info.simulated

    run(main)


def test_every_quirk_of_the_contract_has_its_test() -> None:
    assert not {quirk for quirk in quirk_ids() if f"test_{quirk}" not in globals()}
    assert len(contract()["quirks"]) == len(quirk_ids())
