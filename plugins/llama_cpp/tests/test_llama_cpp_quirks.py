"""Every quirk of the contract has a test that handles it or shows it harmless."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from llama_cpp_contract import CONTRACTS, context, contract, quirk_ids

from enginebay import get_backend
from enginebay.clock import MonotonicClock
from enginebay.errors import BackendUnavailable, ContextTooLong, InvalidRequest, StartFailed, UnsupportedFeature
from enginebay.errors import UpstreamError as Upstream
from enginebay.guard import GuardedBackend
from enginebay.plugins import compile_plan
from enginebay.testing.simulators import PACED, Simulator, tokens
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
from enginebay_llama_cpp.api import LlamaCppApi
from enginebay_llama_cpp.capabilities import FEATURES, capabilities
from enginebay_llama_cpp.decoder import CompletionDecoder
from enginebay_llama_cpp.metrics import METRICS
from enginebay_llama_cpp.options import LlamaCppOptions
from enginebay_llama_cpp.plugin import SPEC

TEXT = Text("hi")
CHAT = Chat((Message("user", "hi"),))
CAPABILITIES = capabilities(None, LlamaCppOptions.model_validate({}))
INFO = BackendInfo(kind="llama_cpp", name="llama", model="m", capabilities=CAPABILITIES, max_model_len=512)


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
    return msgspec.json.decode(LlamaCppApi(name="llama").call(wanted, INFO).body)


def event(**fields: object) -> bytes:
    return b"data: " + msgspec.json.encode(fields) + b"\n\n"


def decoded(*events: bytes, logprobs: int | None = None, max_tokens: int = 99) -> list[GenerationChunk]:
    decoder = CompletionDecoder(backend="llama", num_alternatives=logprobs, max_tokens=max_tokens)
    return [chunk for data in events for chunk in decoder.feed(data, 1.0)] + decoder.end(2.0)


LAST = event(
    content="", tokens=[], stop=True, stop_type="eos", tokens_predicted=1, tokens_evaluated=3, timings={"cache_n": 2}
)


def external(simulator: Simulator, **options: object) -> GuardedBackend:
    return get_backend("llama_cpp", mode="external", url=simulator.url, model="simulated", options=options)


# ---------------------------------------------------------------- one test for each quirk


def test_loading_503() -> None:
    async def main() -> None:
        profile = type(PACED)(pace="paced", load_time_s=30.0)
        async with Simulator("llama_cpp", profile=profile, port=0) as simulator:
            http = HttpClient(simulator.url, clock=MonotonicClock())
            health = await LlamaCppApi(name="llama").health(http)
            assert (health.state, health.reason) == (HealthState.LOADING, "Loading model")
            await http.aclose()

    run(main)
    body = b'{"error":{"message":"Loading model","type":"unavailable_error","code":503}}'
    assert type(LlamaCppApi(name="llama").error(503, body, {})) is BackendUnavailable  # not overload


def test_no_done_native() -> None:
    token = event(content="a", tokens=[7], stop=False, tokens_predicted=1, tokens_evaluated=3)
    *_, last = decoded(token, LAST)
    assert last.finish_reason is FinishReason.STOP
    with pytest.raises(BackendUnavailable, match="before the answer was finished"):
        decoded(token)


def test_defaults() -> None:
    assert {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}.items() <= body_of(request()).items()
    assert {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}.items() <= body_of(request(CHAT)).items()
    for prompt in (Text("hi"), CHAT):
        assert body_of(request(prompt))["samplers"].index("temperature") < body_of(request(prompt))["samplers"].index(
            "top_p"
        )


def test_naming() -> None:
    for prompt in (Text("hi"), CHAT):
        body = body_of(request(prompt, repetition_penalty=1.3))
        assert body["repeat_penalty"] == 1.3
        assert "repetition_penalty" not in body
        assert body["repeat_last_n"] == 512  # all of the slot, not the last 64 tokens
    assert body_of(request())["n_predict"] == 5


def test_unlimited() -> None:
    assert body_of(request(CHAT))["max_tokens"] == 5
    assert Feature.PREFILL_ONLY not in FEATURES


def test_ctx_shared() -> None:
    plan = compile_plan(SPEC, context(settings={"max_num_seqs": 8, "max_model_len": 1024}))
    assert plan.command[plan.command.index("--ctx-size") + 1] == "8192"
    assert plan.outcomes[1].outcome == "approximated"


def sample() -> str:
    return (CONTRACTS / "metrics" / "llama_cpp.prom").read_text(encoding="utf-8")


def test_prompt_tokens_exclude_cached() -> None:
    stats = METRICS.stats(parse_metrics(sample()))
    assert stats.prompt_tokens_total == 1_284_320 + 402_176
    assert stats.prefix_cache_queries_total == stats.prompt_tokens_total
    assert stats.prefix_cache_hits_total == 402_176
    assert stats.prefix_cache_hit_ratio == pytest.approx(402_176 / 1_686_496)


def test_scrape_resets() -> None:
    """The gauges that depend on who scraped last are not read."""
    assert not {name for name in (*METRICS.values.values(), *METRICS.extra) if name.endswith("_tokens_seconds")}


def test_no_histograms() -> None:
    stats = METRICS.stats(parse_metrics(sample()))
    assert stats.ttft_seconds is stats.e2e_seconds is stats.requests_total_by_finish_reason is None
    assert stats.kv_cache_usage_ratio is None


def test_max_as_counter() -> None:
    assert "llamacpp:n_tokens_max" not in (*METRICS.values.values(), *METRICS.extra)


def test_six_digits() -> None:
    """1284317 is told as 1.28432e+06: what is lost there cannot be had back, and is not made up."""
    assert METRICS.stats(parse_metrics(sample())).extra["llamacpp:prompt_tokens_total"] == 1.28432e6


def test_metrics_guarded() -> None:
    assert "--metrics" in compile_plan(SPEC, context()).command

    async def main() -> None:
        async with Simulator("llama_cpp", ["--api-key", "k"], port=0) as simulator:
            async with external(simulator, api_key="k") as backend:
                assert backend.info.effective_settings["metrics"] is False
                assert (await backend.stats()).requests_running is None
            with pytest.raises(StartFailed, match=r"set options\.api_key"):
                await external(simulator).start()

    run(main)


def test_headers_delayed() -> None:
    """The time to the first byte includes the queue, so the limit on it is that of a whole wait."""
    options = LlamaCppOptions.model_validate({})
    assert options.first_byte_timeout_s is not None
    assert options.idle_timeout_s is not None
    assert options.first_byte_timeout_s > options.idle_timeout_s


def test_stop_trimmed() -> None:
    last = event(stop=True, stop_type="word", stopping_word="END", tokens_predicted=1, tokens_evaluated=1)
    [chunk] = decoded(last)
    assert (chunk.text, chunk.stop_reason, chunk.finish_reason) == ("", "END", FinishReason.STOP)
    assert Feature.STOP_IN_OUTPUT not in FEATURES


@pytest.mark.parametrize(("told", "meant"), [("eos", "stop"), ("word", "stop"), ("limit", "length")])
def test_finish_names(told: str, meant: str) -> None:
    [chunk] = decoded(event(stop=True, stop_type=told, tokens_predicted=1, tokens_evaluated=1))
    assert chunk.finish_reason is not None
    assert chunk.finish_reason.value == meant
    with pytest.raises(Upstream, match="stop_type 'none'"):
        decoded(event(stop=True, stop_type="none"))


def test_bos() -> None:
    without = request(Text("hi", add_special_tokens=False))
    with pytest.raises(UnsupportedFeature, match="add_special_tokens"):
        body_of(without)

    async def main() -> None:
        async with Simulator("llama_cpp", port=0) as simulator, external(simulator) as backend:
            ids = await backend.count_tokens(Text("the end"))
            assert ids == (tokens.BEGIN_ID, *await backend.count_tokens(Text("the end", add_special_tokens=False)))
            assert (await backend.count_tokens(CHAT))[0] == tokens.BEGIN_ID
            with pytest.raises(UnsupportedFeature, match="add_special_tokens"):
                backend.generate(without)

    run(main)
    assert body_of(request(TokenIds((1, 2))))["prompt"] == [1, 2]


def test_no_min_tokens() -> None:
    assert not {Feature.MIN_TOKENS, Feature.STOP_TOKEN_IDS} & FEATURES
    assert Feature.IGNORE_EOS in FEATURES
    assert body_of(request(ignore_eos=True))["ignore_eos"] is True


def test_token_ids() -> None:
    assert body_of(request())["return_tokens"] is True
    held_back = event(content="\u00e9", tokens=[9], stop=False, tokens_predicted=2, tokens_evaluated=3)
    first, _ = decoded(held_back, event(stop=True, stop_type="limit", tokens_predicted=2, tokens_evaluated=3))
    assert (first.num_tokens, first.token_ids) == (2, None)  # the id of the character's first half is never sent
    assert body_of(request(CHAT))["timings_per_token"] is True  # a chat counts its tokens at least


def test_n_completions() -> None:
    assert "n_cmpl" not in body_of(request())  # one is the default, and answers no list
    assert body_of(request(CHAT))["n"] == 1


def test_removed_flags() -> None:
    plan = compile_plan(SPEC, context(settings={"speculative_draft_model": "draft.gguf"}))
    assert not {"--draft", "--draft-max", "--draft-min"} & set(plan.command)
    assert "--spec-draft-model" in plan.command


def test_seed() -> None:
    assert body_of(request())["seed"] == -1
    assert body_of(request(seed=7))["seed"] == 7
    assert body_of(request(seed=2**32 - 1))["seed"] == 0  # which would be "random" otherwise
    assert body_of(request(seed=-1))["seed"] == 2**32 - 2


def test_every_quirk_of_the_contract_has_its_test() -> None:
    assert quirk_ids() == {
        name.removeprefix("test_") for name in globals() if name.removeprefix("test_") in quirk_ids()
    }
    assert len(contract()["quirks"]) == len(quirk_ids())


# ---------------------------------------------------------------- beside the quirks


def test_a_prompt_beyond_the_slot_names_both_lengths() -> None:
    body = (
        b'{"error":{"code":400,"message":"too long","type":"exceed_context_size_error","n_prompt_tokens":9,"n_ctx":8}}'
    )
    error = LlamaCppApi(name="llama").error(400, body, {})
    assert isinstance(error, ContextTooLong)
    assert (error.num_tokens, error.limit) == (9, 8)


def test_token_ids_whose_answer_the_slot_would_cut_short_are_refused() -> None:
    with pytest.raises(ContextTooLong) as caught:
        body_of(request(TokenIds((5,) * 500), max_tokens=13))
    assert (caught.value.num_tokens, caught.value.limit) == (500, 512)
    assert body_of(request(TokenIds((5,) * 500), max_tokens=12))["n_predict"] == 12


def test_errors_inside_a_stream_and_bodies_that_are_none() -> None:
    with pytest.raises(InvalidRequest, match="bad grammar"):
        decoded(event(error={"code": 400, "message": "bad grammar", "type": "invalid_request_error"}))
    assert isinstance(LlamaCppApi(name="llama").error(502, b"<html>", {}), BackendUnavailable)


def test_a_last_message_of_the_assistant_is_continued_only_where_it_is_asked_for() -> None:
    messages = (Message("user", "hi"), Message("assistant", "Hel"))
    with pytest.raises(UnsupportedFeature, match="continue_final_message"):
        body_of(request(Chat(messages)))
    body = body_of(request(Chat(messages, continue_final_message=True)))
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)


def test_constraints_of_both_routes() -> None:
    wrapped = ResponseFormat(type="json_schema", schema={"name": "n", "schema": {"type": "object"}})
    assert body_of(request(format=wrapped))["json_schema"] == {"type": "object"}
    assert body_of(request(format=ResponseFormat(type="json_object")))["json_schema"] == {}
    assert body_of(request(CHAT, format=wrapped))["response_format"]["type"] == "json_schema"
    grammar = ResponseFormat(type="grammar", schema='root ::= "a"')
    assert body_of(request(CHAT, format=grammar))["grammar"] == body_of(request(format=grammar))["grammar"]
    for prompt in (Text("hi"), CHAT):
        with pytest.raises(UnsupportedFeature, match="response_format"):
            body_of(request(prompt, format=ResponseFormat(type="regex", schema="a+")))


@pytest.mark.parametrize("prompt", [Text("hi"), CHAT])
@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        '{"type": "object"}',
        {"name": "n", "schema": {"type": "object"}},
        '{"name": "n", "schema": {"type": "object"}}',
    ],
)
def test_a_schema_however_it_is_given_is_where_the_server_reads_it(prompt: Text | Chat, schema: object) -> None:
    body = body_of(request(prompt, format=ResponseFormat(type="json_schema", schema=schema)))
    read = body["response_format"]["json_schema"]["schema"] if prompt is CHAT else body["json_schema"]
    assert read == {"type": "object"}


@pytest.mark.parametrize("prompt", [Text("hi"), CHAT])
@pytest.mark.parametrize("schema", [None, "{bad", "7", 7, {"name": "n", "schema": None}, "[" * 9999])
def test_what_is_no_schema_is_refused(prompt: Text | Chat, schema: object) -> None:
    with pytest.raises(InvalidRequest, match="schema") as caught:
        body_of(request(prompt, format=ResponseFormat(type="json_schema", schema=schema)))
    assert caught.value.field == "response_format"


@pytest.mark.parametrize("prompt", [Text("hi"), CHAT])
def test_a_grammar_that_is_none_is_refused(prompt: Text | Chat) -> None:
    with pytest.raises(InvalidRequest, match="grammar is missing") as caught:
        body_of(request(prompt, format=ResponseFormat(type="grammar")))
    assert caught.value.field == "response_format"


def test_no_alternatives_are_asked_for_as_one_and_dropped() -> None:
    assert body_of(request(logprobs=0))["n_probs"] == 1
    entry = {"id": 7, "token": "a", "logprob": -0.5}
    token = event(
        content="a", tokens=[7], tokens_predicted=1, tokens_evaluated=1,
        completion_probabilities=[{**entry, "top_logprobs": [entry]}],
    )  # fmt: skip
    chunk, _ = decoded(token, LAST, logprobs=0)
    assert chunk.logprobs is not None
    assert chunk.logprobs[0].alternatives == ()
    assert body_of(request(CHAT, logprobs=0))["top_logprobs"] == 1


def test_every_series_that_the_map_reads_is_in_the_sample() -> None:
    assert METRICS.missing(parse_metrics(sample())) == []
    renamed = sample().replace("llamacpp:requests_deferred", "llamacpp:requests_waiting")
    assert METRICS.missing(parse_metrics(renamed)) == ["llamacpp:requests_deferred"]


def test_the_map_covers_what_the_contract_says_is_published() -> None:
    normalized = contract()["metrics"]["normalized"]
    published = {quantity for quantity, series in normalized.items() if series is not None}
    derived = {"prefix_cache_queries_total", "prefix_cache_hit_ratio"}
    assert published | derived == METRICS.values.keys() | METRICS.derived.keys()


def test_what_the_server_says_of_itself(tmp_path: Path) -> None:
    async def main() -> None:
        flags = ["--alias", "small", "--parallel", "2", "--ctx-size", "2048", "--metrics"]
        async with Simulator("llama_cpp", flags, port=0) as simulator, external(simulator) as backend:
            info = backend.info
            assert info.simulated
            assert info.max_model_len == 1024
            told = info.effective_settings
            assert (told["max_num_seqs"], told["max_model_len"], told["served_model_name"]) == (2, 1024, "small")

    run(main)
