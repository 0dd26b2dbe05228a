"""From TGI's events to chunks: whole text, stop strings, counts, errors, however the bytes are cut."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebay.errors import (
    BackendOverloaded,
    BackendUnavailable,
    ContextTooLong,
    EngineBayError,
    EngineStepFailed,
    InvalidRequest,
    UpstreamError,
)
from enginebay.types import (
    Chat,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Message,
    SamplingParams,
    Text,
)
from enginebay_tgi.chat_decoder import ChatDecoder
from enginebay_tgi.native_decoder import NativeDecoder

Event = dict[str, object]


def request(*, stop: tuple[str, ...] = (), is_chat: bool = False, **fields: object) -> GenerationRequest:
    sampling_fields = {name: fields.pop(name) for name in ("include_stop_str_in_output",) if name in fields}
    prompt = Chat((Message("user", "hi"),)) if is_chat else Text("hi")
    sampling = SamplingParams(max_tokens=100, stop=stop, **sampling_fields)  # pyright: ignore[reportArgumentType]
    return GenerationRequest(request_id="r", prompt=prompt, sampling=sampling, **fields)  # pyright: ignore[reportArgumentType]


def token(text: str, token_id: int = 7, *, special: bool = False) -> Event:
    return {"id": token_id, "text": text, "logprob": -0.5, "special": special}


def events(
    texts: Iterable[str], *, finish: str = "length", special: tuple[str, ...] = (), whole: str | None = None
) -> list[Event]:
    """One for each token; the last has the details."""
    texts = list(texts)
    found: list[Event] = [
        {
            "index": index + 1,
            "token": token(text, index, special=text in special),
            "generated_text": None,
            "details": None,
        }
        for index, text in enumerate(texts)
    ]
    found[-1]["generated_text"] = "".join(text for text in texts if text not in special) if whole is None else whole
    found[-1]["details"] = {"finish_reason": finish, "generated_tokens": len(texts), "seed": None, "input_length": 5}
    return found


def sse(found: Iterable[Event]) -> bytes:
    return b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in found)


def decoded(asked: GenerationRequest, data: bytes, *, cuts: Iterable[int] = ()) -> list[GenerationChunk]:
    decoder = (ChatDecoder if isinstance(asked.prompt, Chat) else NativeDecoder)(asked, backend="tgi")
    edges = [0, *sorted(cuts), len(data)]
    chunks: list[GenerationChunk] = []
    for begin, end in pairwise(edges):
        chunks += decoder.feed(data[begin:end], 1.0)
        if decoder.is_finished:
            return chunks
    return [*chunks, *decoder.end(1.0)]


def text_of(chunks: list[GenerationChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@given(
    texts=st.lists(st.text("abc\U0001f600", max_size=4), min_size=1, max_size=12),
    stop=st.lists(st.text("abc", min_size=1, max_size=3), max_size=4),
    include=st.booleans(),
    cuts=st.lists(st.integers(0, 2000), max_size=8),
)
def test_the_text_ends_at_the_first_stop_string_however_the_bytes_are_cut(
    texts: list[str], stop: list[str], include: bool, cuts: list[int]
) -> None:
    asked = request(stop=tuple(stop), include_stop_str_in_output=include)
    data = sse(events(texts))
    chunks = decoded(asked, data, cuts=[cut for cut in cuts if cut < len(data)])
    whole = "".join(texts)
    ends = sorted((whole.find(one) + len(one), -len(one), one) for one in stop if one in whole)
    if not ends:
        assert text_of(chunks) == whole
        assert chunks[-1].finish_reason is FinishReason.LENGTH
    else:
        end, _, matched = ends[0]
        assert text_of(chunks) == (whole[:end] if include else whole[: end - len(matched)])
        assert (chunks[-1].finish_reason, chunks[-1].stop_reason) == (FinishReason.STOP, matched)
    usage = chunks[-1].usage
    assert usage is not None
    assert usage.num_output_tokens + usage.num_discarded_tokens == len(texts)
    assert sum(chunk.num_tokens or 0 for chunk in chunks) == usage.num_output_tokens
    assert sum(len(chunk.token_ids or ()) for chunk in chunks) == usage.num_output_tokens
    assert [chunk.finish_reason is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]


def test_text_that_could_still_become_a_stop_string_is_held_back() -> None:
    decoder = NativeDecoder(request(stop=("END",)), backend="tgi")
    first, second, last = (list(decoder.feed(sse([event]), 1.0)) for event in events([" one", " E", "ND"]))
    assert [chunk.text for chunk in (*first, *second, *last)] == [" one", " ", ""]
    assert second[0].num_tokens == 1
    assert last[0].finish_reason is FinishReason.STOP


def test_a_stop_string_inside_a_token_ends_the_text_there_and_counts_the_rest_as_discarded() -> None:
    chunks = decoded(request(stop=("x",)), sse(events(["a", "bxc", "d", "e"], finish="length")))
    assert text_of(chunks) == "ab"
    assert (chunks[-1].finish_reason, chunks[-1].stop_reason) == (FinishReason.STOP, "x")
    assert chunks[-1].usage is not None
    assert (chunks[-1].usage.num_output_tokens, chunks[-1].usage.num_discarded_tokens) == (2, 2)
    assert chunks[-1].token_ids == (0, 1)


def test_a_stop_string_that_is_a_special_token_is_named() -> None:
    found = events(["a", "<|end|>"], finish="stop_sequence", special=("<|end|>",))
    chunks = decoded(request(stop=("<|end|>",)), sse(found))
    assert text_of(chunks) == "a"
    assert chunks[-1].stop_reason == "<|end|>"


@pytest.mark.parametrize(
    ("finish", "reason"),
    [("length", FinishReason.LENGTH), ("eos_token", FinishReason.STOP), ("stop_sequence", FinishReason.STOP)],
)
def test_finish_reasons_are_the_portable_ones(finish: str, reason: FinishReason) -> None:
    [chunk] = decoded(request(), sse(events(["a"], finish=finish)))
    assert (chunk.finish_reason, chunk.stop_reason) == (reason, None)


def test_an_unknown_finish_reason_is_an_error() -> None:
    with pytest.raises(UpstreamError, match="weird"):
        decoded(request(), sse(events(["a"], finish="weird")))


def test_the_end_of_sequence_counts_as_a_token_and_has_no_text() -> None:
    chunks = decoded(request(), sse(events(["a", "</s>"], finish="eos_token", special=("</s>",))))
    assert text_of(chunks) == "a"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.num_output_tokens == 2


def test_bytes_that_never_became_a_character_come_with_the_last_chunk() -> None:
    chunks = decoded(request(), sse(events(["a", "", ""], whole="a�")))
    assert text_of(chunks) == "a�"


def test_final_delivery_is_one_chunk_with_everything() -> None:
    data = sse(events(["a", "b", "c"]))
    [chunk] = decoded(request(delivery="final", logprobs=0), data, cuts=[10, 100, 200, 300])
    assert (chunk.text, chunk.token_ids, chunk.num_tokens) == ("abc", (0, 1, 2), 3)
    assert chunk.logprobs is not None
    assert [position.token for position in chunk.logprobs] == ["a", "b", "c"]


def test_alternatives_are_cut_to_what_was_asked_for_and_null_is_minus_infinity() -> None:
    found = events(["a"])
    found[0]["top_tokens"] = [token("a", 0), token("b", 1), {**token("c", 2), "logprob": None}]
    [chunk] = decoded(request(logprobs=2), sse(found))
    assert chunk.logprobs is not None
    assert [other.token_id for other in chunk.logprobs[0].alternatives] == [0, 1]
    [chunk] = decoded(request(logprobs=3), sse(found))
    assert chunk.logprobs is not None
    assert chunk.logprobs[0].alternatives[2].logprob == -math.inf


def test_log_probabilities_that_nobody_asked_for_are_not_given() -> None:
    [chunk] = decoded(request(), sse(events(["a"])))
    assert chunk.logprobs is None


@pytest.mark.parametrize(
    ("error", "error_type", "expected"),
    [
        ("Model is overloaded", "overloaded", BackendOverloaded),
        (
            "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 16. "
            "Given: 9 `inputs` tokens and 20 `max_new_tokens`",
            "validation",
            ContextTooLong,
        ),
        ("Request failed during generation: Server error: CUDA", "generation", EngineStepFailed),
        ("Template error: Conversation roles must alternate", "template_error", InvalidRequest),
        ("Incomplete generation", "incomplete_generation", UpstreamError),
    ],
)
def test_an_error_inside_a_stream_is_typed(error: str, error_type: str, expected: type[EngineBayError]) -> None:
    with pytest.raises(expected):
        decoded(request(), sse([{"error": error, "error_type": error_type}]))
    inside_chat: Event = {"error": {"message": error, "http_status_code": 422}}
    with pytest.raises(expected):
        decoded(request(is_chat=True), sse([inside_chat]) + b"data: [DONE]\n\n")


@pytest.mark.parametrize("num_events", [0, 1, 2])
def test_a_stream_without_details_was_cut(num_events: int) -> None:
    with pytest.raises(BackendUnavailable):
        decoded(request(), sse(events(["a", "b", "c"])[:num_events]))


def test_a_chat_that_ends_without_usage_was_cut() -> None:
    choice: Event = {"index": 0, "delta": {"role": "assistant", "content": "a"}, "finish_reason": "length"}
    with pytest.raises(BackendUnavailable):
        decoded(request(is_chat=True), sse([{"choices": [choice], "usage": None}]) + b"data: [DONE]\n\n")
    with pytest.raises(BackendUnavailable):
        decoded(request(is_chat=True), sse([{"choices": [choice], "usage": None}]))


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: [1]\n\n", b"data: {}\n\n", b'data: {"token": {}}\n\n'])
def test_an_event_that_is_none_is_the_servers_error(data: bytes) -> None:
    with pytest.raises(UpstreamError):
        decoded(request(), data)


def test_events_of_routers_that_write_no_space_and_keep_alive_comments_are_read() -> None:
    data = b":\n\n" + sse(events(["a", "b"])).replace(b"data: ", b"data:")
    assert text_of(decoded(request(), data)) == "ab"


@pytest.mark.parametrize("is_chat", [False, True])
def test_bytes_that_are_no_text_are_the_servers_error(is_chat: bool) -> None:
    with pytest.raises(UpstreamError, match="something else"):
        decoded(request(is_chat=is_chat), b'data: {"error": "\xff"}\n\n')


def chat_event(logprobs: object, *, usage: object = None) -> Event:
    choice = {"index": 0, "delta": {"content": "a"}, "logprobs": logprobs, "finish_reason": "length"}
    return {"choices": [choice], "usage": usage}


@pytest.mark.parametrize(
    "logprobs",
    [None, {"content": []}, {"content": [{"token": "a"}]}, {"content": [{"token": "a", "logprob": -0.5}]}],
)
def test_a_chat_that_leaves_out_log_probabilities_that_were_asked_for_is_an_error(logprobs: object) -> None:
    with pytest.raises(UpstreamError, match="without its log-probabilities"):
        decoded(request(is_chat=True, logprobs=1), sse([chat_event(logprobs)]))


@pytest.mark.parametrize(
    ("num", "told"), [(0, {"logprob": None}), (1, {"logprob": None}), (1, {"logprob": -0.5})]
)  # fmt: skip
def test_a_text_that_leaves_out_log_probabilities_that_were_asked_for_is_an_error(num: int, told: Event) -> None:
    found = events(["a"])
    found[0]["token"] = {**token("a"), **told}
    with pytest.raises(UpstreamError, match="has no log-probabilities"):
        decoded(request(logprobs=num), sse(found))


@pytest.mark.parametrize("num_told", [-3, 0, 1])
def test_fewer_tokens_than_came_are_an_error(num_told: int) -> None:
    found = events(["a", "b"])
    found[-1]["details"] = {"finish_reason": "length", "generated_tokens": num_told, "input_length": 5}
    with pytest.raises(UpstreamError, match=f"{num_told} generated ones, but 2 came"):
        decoded(request(), sse(found))
    chat = chat_event(None, usage={"prompt_tokens": 5, "completion_tokens": num_told - 1})
    with pytest.raises(UpstreamError, match=f"{num_told - 1} generated ones, but 1 came"):
        decoded(request(is_chat=True), sse([chat]))


def test_more_tokens_than_came_are_kept_as_told_and_none_is_invented() -> None:
    found = events(["a", "b"])
    found[-1]["details"] = {"finish_reason": "length", "generated_tokens": 7, "input_length": 5}
    [chunk] = decoded(request(), sse(found))
    assert chunk.usage is not None
    assert (chunk.num_tokens, chunk.token_ids, chunk.usage.num_output_tokens) == (2, (0, 1), 7)


def test_a_negative_length_of_the_prompt_is_an_error() -> None:
    found = events(["a"])
    found[-1]["details"] = {"finish_reason": "length", "generated_tokens": 1, "input_length": -5}
    with pytest.raises(UpstreamError, match="-5 prompt tokens"):
        decoded(request(), sse(found))
