"""Every quirk of the contract has a test that handles it or shows it harmless."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec
import pytest
from sglang_contract import CONTRACTS, context, contract, quirk_ids

from enginebay import get_backend
from enginebay.clock import MonotonicClock
from enginebay.errors import (
    BackendOverloaded,
    BackendUnavailable,
    ContextTooLong,
    InvalidRequest,
    StartFailed,
    UnsupportedFeature,
    UpstreamError,
)
from enginebay.guard import GuardedBackend
from enginebay.plugins import compile_plan
from enginebay.testing.simulators import PACED, Fault, Simulator, tokens
from enginebay.types import (
    BackendInfo,
    Chat,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    HealthState,
    Message,
    ResponseFormat,
    SamplingParams,
    Text,
    TokenIds,
)
from enginebay.wire.http_client import HttpClient
from enginebay.wire.prometheus_text import parse_metrics
from enginebay_sglang.api import SglangApi
from enginebay_sglang.capabilities import capabilities
from enginebay_sglang.decoder import GenerateDecoder
from enginebay_sglang.metrics import METRICS
from enginebay_sglang.options import SglangOptions
from enginebay_sglang.plugin import SPEC

TEXT = Text("hi")
CHAT = Chat((Message("user", "hi"),))
INFO = BackendInfo(
    kind="sglang", name="sglang", model="m", capabilities=capabilities(None, SglangOptions.model_validate({}))
)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 30))


def request(
    prompt: Text | TokenIds | Chat = TEXT,
    *,
    logprobs: int | None = None,
    format: ResponseFormat | None = None,
    **sampling: Any,
) -> GenerationRequest:
    params = SamplingParams(**{"max_tokens": 5, **sampling})
    return GenerationRequest(
        request_id="r", prompt=prompt, sampling=params, logprobs=logprobs, response_format=format
    )  # fmt: skip


def body_of(wanted: GenerationRequest) -> Mapping[str, Any]:
    return msgspec.json.decode(SglangApi(name="sglang").call(wanted, INFO).body)


def params_of(wanted: GenerationRequest) -> Mapping[str, Any]:
    return body_of(wanted)["sampling_params"]


def event(text: str, ids: list[int], finish: object = None, **meta: object) -> bytes:
    counts = {"prompt_tokens": 3, "completion_tokens": len(ids), "cached_tokens": 2}
    body = {"text": text, "output_ids": ids, "meta_info": {**counts, "finish_reason": finish, **meta}}
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def decoded(*events: bytes, is_cumulative: bool = True, stop_token_ids: tuple[int, ...] = ()) -> list[GenerationChunk]:
    decoder = GenerateDecoder(
        backend="sglang", is_cumulative=is_cumulative, stop_token_ids=stop_token_ids, num_alternatives=1
    )
    return [chunk for data in events for chunk in decoder.feed(data, 1.0)] + decoder.end(2.0)


LENGTH = {"type": "length", "length": 2}


def sample() -> str:
    return (CONTRACTS / "metrics" / "sglang.prom").read_text(encoding="utf-8")


def external(simulator: Simulator, model: str = "simulated", **options: object) -> GuardedBackend:
    return get_backend("sglang", mode="external", url=simulator.url, model=model, options=options)


# ---------------------------------------------------------------- one test for each quirk


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


def test_cumulative_text() -> None:
    chunks = decoded(event("ab", [1]), event("abcd", [1, 2]), event("abcde", [1, 2, 3], LENGTH))
    assert [chunk.text for chunk in chunks] == ["ab", "cd", "e"]
    assert [chunk.token_ids for chunk in chunks] == [(1,), (2,), (3,)]
    deltas = decoded(event("ab", [1]), event("cd", [2]), event("e", [3], LENGTH), is_cumulative=False)
    assert [chunk.text for chunk in deltas] == ["ab", "cd", "e"]


def test_a_text_that_ends_inside_a_character_waits_for_the_rest_of_it() -> None:
    chunks = decoded(event("a\ufffd", [1]), event("a\u00e9", [1, 2]), event("a\u00e9\ufffd", [1, 2, 3], LENGTH))
    assert [chunk.text for chunk in chunks] == ["a", "\u00e9", "\ufffd"]  # the end shows what is there


def test_a_server_of_the_other_kind_of_stream_is_noticed() -> None:
    with pytest.raises(UpstreamError, match="incremental-streaming-output"):
        decoded(event("ab", [1]), event("cd", [2]))


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
        async with Simulator("sglang", port=0) as simulator, external(simulator, deterministic=True) as backend:
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


def test_a_server_of_another_model_is_refused_by_name() -> None:
    async def main() -> None:
        flags = ["--model-path", "some/model", "--served-model-name", "small"]
        async with Simulator("sglang", flags, port=0) as simulator:
            with pytest.raises(StartFailed, match=r"no model 'hf:other/model'; it serves 'small'"):
                await external(simulator, "hf:other/model").start()

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


# ---------------------------------------------------------------- beside the quirks


def test_fields_of_generate_are_all_in_the_contract() -> None:
    """Any other would be answered with 400."""
    [generate] = [one for one in contract()["http"]["endpoints"] if one["path"] == "/generate"]
    everything = request(logprobs=3, seed=1, logit_bias={5: 1.0}, format=ResponseFormat(type="json_object"))
    body = body_of(everything)
    assert body.keys() <= generate["request"].keys()
    assert body["sampling_params"].keys() <= generate["parameters"].keys()


def test_lengths_in_the_servers_words_become_typed() -> None:
    api = SglangApi(name="sglang")
    message = "The input (90 tokens) is longer than the model's context length (80 tokens)."
    too_long = msgspec.json.encode({"error": {"message": message}})
    error = api.error(400, too_long, {})
    assert isinstance(error, ContextTooLong)
    assert (error.num_tokens, error.limit) == (90, 80)

    async def main() -> None:
        flags = ["--context-length", "64"]
        async with Simulator("sglang", flags, port=0) as simulator, external(simulator) as backend:
            for prompt in (TokenIds((5,) * 60), CHAT):
                with pytest.raises(ContextTooLong) as caught:
                    await anext(backend.generate(request(prompt, max_tokens=60)))
                assert caught.value.limit == 64

    run(main)


def test_an_error_inside_a_stream_keeps_its_status() -> None:
    inside = {"error": {"message": "bad value", "type": "invalid_request_error", "code": 400, "retryable": False}}
    with pytest.raises(InvalidRequest, match="bad value"):
        decoded(b"data: " + msgspec.json.encode(inside) + b"\n\n")
    with pytest.raises(BackendUnavailable, match="before the answer was finished"):
        decoded(event("a", [1]))
    with pytest.raises(UpstreamError, match="without a finish_reason"):
        decoded(event("a", [1]), b"data: [DONE]\n\n")


def test_special_tokens_that_cannot_be_left_out_are_refused() -> None:
    without = request(Text("hi", add_special_tokens=False))
    with pytest.raises(UnsupportedFeature, match="add_special_tokens"):
        body_of(without)

    async def main() -> None:
        async with Simulator("sglang", port=0) as simulator, external(simulator) as backend:
            assert (await backend.count_tokens(TEXT))[0] == tokens.BEGIN_ID

    run(main)


def test_log_probabilities_are_diffed_like_the_text() -> None:
    pairs = [(-0.1, 1, "a"), (-0.2, 2, "b")]
    first = event("a", [1], output_token_logprobs=pairs[:1], output_top_logprobs=[pairs[:1]])
    last = event("ab", [1, 2], LENGTH, output_token_logprobs=pairs, output_top_logprobs=[[pair] for pair in pairs])
    chunks = decoded(first, last)
    assert [[entry.token_id for entry in chunk.logprobs or ()] for chunk in chunks] == [[1], [2]]
    assert chunks[1].logprobs is not None
    assert chunks[1].logprobs[0].alternatives[0].token == "b"


def test_effective_settings_are_the_portable_names() -> None:
    async def main() -> None:
        flags = ["--context-length", "512", "--max-running-requests", "7", "--disable-radix-cache", "--dtype", "half"]
        async with Simulator("sglang", flags, port=0) as simulator, external(simulator) as backend:
            told = backend.info.effective_settings
            assert (told["max_model_len"], told["max_num_seqs"], told["dtype"]) == (512, 7, "half")
            assert told["enable_prefix_caching"] is False
            assert "seed" not in told  # left to the server, which does not say
            assert backend.info.engine_version == "0.5.23"

    run(main)


def test_every_series_that_the_map_reads_is_in_the_sample() -> None:
    assert METRICS.missing(parse_metrics(sample())) == []
    renamed = sample().replace("sglang:token_usage", "sglang:kv_usage")
    assert METRICS.missing(parse_metrics(renamed)) == ["sglang:token_usage"]


def test_the_map_covers_what_the_contract_says_is_published() -> None:
    normalized = contract()["metrics"]["normalized"]
    published = {quantity for quantity, series in normalized.items() if series is not None}
    assert published | {"prefix_cache_queries_total"} == METRICS.values.keys() | METRICS.histograms.keys()


def test_a_total_of_cached_tokens_is_not_added_to_its_parts() -> None:
    text = '# TYPE sglang:cached_tokens_total counter\nsglang:cached_tokens_total{cache_source="%s"} %d\n'
    lines = text % ("device", 7) + "".join((text % ("total", 7)).splitlines(keepends=True)[1:])
    assert METRICS.stats(parse_metrics(lines)).prefix_cache_hits_total == 7
