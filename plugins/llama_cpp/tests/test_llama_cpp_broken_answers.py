"""What a llama-server says that cannot be: an error that names it, never a guess."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from enginebay.errors import BackendTimeout, BackendUnavailable, InvalidRequest, UpstreamError
from enginebay.testing.told_http import health_states
from enginebay.types import (
    BackendInfo,
    GenerationChunk,
    GenerationRequest,
    HealthState,
    SamplingParams,
    Text,
)
from enginebay_llama_cpp.api import LlamaCppApi
from enginebay_llama_cpp.capabilities import capabilities
from enginebay_llama_cpp.chat_decoder import ChatDecoder
from enginebay_llama_cpp.decoder import CompletionDecoder
from enginebay_llama_cpp.options import LlamaCppOptions

PROBABILITY = {"id": 7, "token": "a", "logprob": -0.5, "top_logprobs": []}
INFO = BackendInfo(
    kind="llama_cpp", name="llama", model="m", capabilities=capabilities(None, LlamaCppOptions.model_validate({}))
)


def token(count: int, *ids: int, **more: object) -> Mapping[str, object]:
    return {"content": "a", "tokens": ids, "tokens_predicted": count, "tokens_evaluated": 3, **more}


def last(count: int, **more: object) -> Mapping[str, object]:
    return token(count, **{"content": "", "stop": True, "stop_type": "limit", **more})


def streamed(*events: Mapping[str, object], max_tokens: int = 16, logprobs: int | None = None) -> list[GenerationChunk]:
    decoder = CompletionDecoder(backend="llama", num_alternatives=logprobs, max_tokens=max_tokens)
    data = b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events)
    return [*decoder.feed(data, 1.0), *decoder.end(1.0)]


def chatted(*events: Mapping[str, object], logprobs: int | None = None) -> list[GenerationChunk]:
    decoder = ChatDecoder(backend="llama", num_alternatives=logprobs)
    data = b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events) + b"data: [DONE]\n\n"
    return [*decoder.feed(data, 1.0), *decoder.end(1.0)]


def said(text: str, count: int | None = None, **choice: object) -> Mapping[str, object]:
    choice = {"index": 0, "delta": {"content": text}, **choice}
    return {"choices": [choice], **({} if count is None else {"timings": {"predicted_n": count}})}


def used(count: int) -> Mapping[str, object]:
    return {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": count, "total_tokens": 3 + count}}


@pytest.mark.parametrize(
    "events",
    [
        pytest.param([token(1, 7), token(2, 8), last(1)], id="back at the end"),
        pytest.param([token(3, 7), token(0)], id="back on the way"),
        pytest.param([token(-3)], id="below nothing"),
        pytest.param([token(1, 7, 8)], id="fewer than were sent"),
        pytest.param([token(1, 7), last(9)], id="more than a character holds back"),
    ],
)
def test_counts_that_cannot_be_are_errors(events: list[Mapping[str, object]]) -> None:
    with pytest.raises(UpstreamError, match="the server counts"):
        streamed(*events)


def test_more_tokens_than_were_asked_for_are_an_error() -> None:
    assert streamed(token(1, 7), token(2, 8), last(2), max_tokens=2)[-1].num_tokens == 0
    with pytest.raises(UpstreamError, match="3 tokens, after 2 and 0 more that it sent, of at most 2"):
        streamed(token(1, 7), token(2, 8), last(3), max_tokens=2)


def test_tokens_held_back_inside_a_character_are_counted_at_the_end() -> None:
    [chunk] = streamed(last(2))  # as the server ends where the limit is inside a character
    assert (chunk.num_tokens, chunk.token_ids) == (2, None)


def test_counts_of_a_chat_that_go_back_are_errors() -> None:
    with pytest.raises(UpstreamError, match="1 tokens after it had counted 2"):
        chatted(said("a", 2), said("b", 1))
    with pytest.raises(UpstreamError, match="1 tokens after it had counted 2"):
        chatted(said("a", 2), said("", finish_reason="stop"), used(1))
    assert [chunk.num_tokens for chunk in chatted(said("a", 2), said("", finish_reason="stop"), used(3))] == [2, 1]


def test_log_probabilities_that_are_left_out_are_an_error() -> None:
    with pytest.raises(UpstreamError, match="left out the log-probabilities"):
        streamed(token(1, 7), last(1), logprobs=1)
    with pytest.raises(UpstreamError, match="left out the log-probabilities"):
        streamed(token(1, 7, completion_probabilities=[PROBABILITY]), token(2, 8), last(2), logprobs=1)
    assert streamed(token(1, 7, completion_probabilities=[PROBABILITY]), last(1), logprobs=1)[0].logprobs


def test_log_probabilities_that_a_whole_answer_leaves_out_are_an_error() -> None:
    def whole(**fields: Any) -> GenerationChunk:
        decoder = CompletionDecoder(backend="llama", num_alternatives=1, max_tokens=16)
        return decoder.whole(msgspec.json.encode({**last(1), "tokens": [7], **fields}), 1.0)

    with pytest.raises(UpstreamError, match="left out the log-probabilities"):
        whole(content="a")
    assert whole(content="", stop_type="word", stopping_word="a").text == ""  # all of it was the stop word's


def test_log_probabilities_that_a_chat_leaves_out_are_an_error() -> None:
    logprobs = {"content": [{"id": 7, "token": "a", "logprob": -0.5, "top_logprobs": []}]}
    with pytest.raises(UpstreamError, match="left out the log-probabilities"):
        chatted(said("a", 1), said("", finish_reason="stop"), used(1), logprobs=1)
    assert chatted(said("a", 1, logprobs=logprobs), said("", finish_reason="stop"), used(1), logprobs=1)[0].logprobs


def test_an_empty_text_is_refused_where_the_model_begins_with_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server would answer stop_type none and no token."""
    wanted = GenerationRequest(request_id="r", prompt=Text(""), sampling=SamplingParams(max_tokens=3))
    api = LlamaCppApi(name="llama")
    assert msgspec.json.decode(api.call(wanted, INFO).body)["prompt"] == ""  # the BOS alone
    monkeypatch.setattr(api, "_adds_special_tokens", False)
    with pytest.raises(InvalidRequest, match="the prompt is empty") as caught:
        api.call(wanted, INFO)
    assert caught.value.field == "prompt"


def test_a_server_that_is_slow_to_answer_is_not_dead() -> None:
    slow, gone = BackendTimeout("no answer within 5 s"), BackendUnavailable("refused")
    assert health_states(LlamaCppApi(name="llama"), gone, slow, 200, slow, gone) == [
        HealthState.LOADING, HealthState.LOADING, HealthState.READY, HealthState.DEGRADED, HealthState.DEAD,
    ]  # fmt: skip
