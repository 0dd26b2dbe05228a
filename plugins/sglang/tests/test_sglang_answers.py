"""Requests and answers beside the quirks: fields, errors, text in pieces, what a server tells of itself."""

from __future__ import annotations

import msgspec
import pytest
from sglang_asking import CHAT, LENGTH, TEXT, body_of, decoded, event, external, request, run, sample
from sglang_contract import contract

from enginebay.errors import (
    BackendUnavailable,
    ContextTooLong,
    InvalidRequest,
    StartFailed,
    UnsupportedFeature,
    UpstreamError,
)
from enginebay.testing.simulators import Simulator, tokens
from enginebay.types import (
    ResponseFormat,
    Text,
    TokenIds,
)
from enginebay.wire.prometheus_text import parse_metrics
from enginebay_sglang.api import SglangApi
from enginebay_sglang.metrics import METRICS


def test_a_text_that_ends_inside_a_character_waits_for_the_rest_of_it() -> None:
    chunks = decoded(event("a\ufffd", [1]), event("a\u00e9", [1, 2]), event("a\u00e9\ufffd", [1, 2, 3], LENGTH))
    assert [chunk.text for chunk in chunks] == ["a", "\u00e9", "\ufffd"]  # the end shows what is there


def test_a_server_of_the_other_kind_of_stream_is_noticed() -> None:
    with pytest.raises(UpstreamError, match="incremental-streaming-output"):
        decoded(event("ab", [1]), event("cd", [2]))


def test_a_server_of_another_model_is_refused_by_name() -> None:
    async def main() -> None:
        flags = ["--model-path", "some/model", "--served-model-name", "small"]
        async with Simulator("sglang", flags, port=0) as simulator:
            with pytest.raises(StartFailed, match=r"no model 'hf:other/model'; it serves 'small'"):
                await external(simulator, "hf:other/model").start()

    run(main)


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
