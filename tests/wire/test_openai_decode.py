from __future__ import annotations

import json

import pytest

from enginebay.chunks import joined
from enginebay.errors import (
    BackendOverloaded,
    BackendUnavailable,
    EngineDied,
    InvalidRequest,
    UpstreamError,
)
from enginebay.types import FinishReason, TokenAlternative, TokenLogprob, ToolCallDelta, Usage
from enginebay.wire.openai_decode import AnswerDecoder
from enginebay.wire.sse import SseParser

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def sse(*events) -> bytes:
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return b"".join(b"data: " + line.encode() + b"\n\n" for line in lines)


def text_event(text="", finish=None, usage=None, **choice):
    event = {"id": "x", "choices": [{"index": 0, "text": text, "finish_reason": finish, **choice}]}
    return event if usage is None else {**event, "usage": usage}


def chat_event(delta, finish=None, **event):
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **event}


def usage_event(**usage):
    return {"choices": [], "usage": {**USAGE, **usage}}


def decode(form, *reads, num_alternatives=None):
    """Each read arrives one second after the one before."""
    decoder, events = AnswerDecoder(form, backend="b", num_alternatives=num_alternatives), SseParser()
    chunks = []
    for second, read in enumerate(reads, start=1):
        chunks += decoder.feed(events.feed(read), float(second))
    return [*chunks, *decoder.end(float(len(reads)))]


def shape(chunks):
    return [(chunk.text, chunk.num_tokens, chunk.finish_reason, chunk.received_at) for chunk in chunks]


def test_finish_and_usage_of_one_read_are_one_last_chunk():
    read = sse(text_event("a"), text_event("b", "length"), usage_event(), "[DONE]")
    chunks = decode("completions", read)
    assert shape(chunks) == [("a", None, None, 1.0), ("b", None, FinishReason.LENGTH, 1.0)]
    assert chunks[-1].usage == Usage(3, 2)


def test_a_late_usage_takes_no_token_ids_from_the_answer():
    reads = (text_event("a", token_ids=[1])), (text_event("b", "stop", token_ids=[2]))
    chunks = decode("completions", *map(sse, reads), sse(usage_event(), "[DONE]"))
    assert [chunk.token_ids for chunk in chunks] == [(1,), (2,), ()]
    assert joined(chunks).token_ids == (1, 2)


def test_a_late_usage_does_not_hold_the_last_token_back():
    chunks = decode("completions", sse(text_event("b", "stop", stop_reason="END")), sse(usage_event(), "[DONE]"))
    assert shape(chunks) == [("b", None, None, 1.0), ("", None, FinishReason.STOP, 2.0)]
    assert chunks[0].stop_reason is None
    assert (chunks[1].stop_reason, chunks[1].usage) == ("END", Usage(3, 2))


def test_tokens_are_counted_by_ids_and_a_chunk_may_hold_several_or_none():
    read = sse(
        text_event("", token_ids=[5]),  # half a character: a token without text
        text_event("né", token_ids=[6, 7]),
        text_event("", "length", token_ids=[]),
        usage_event(completion_tokens=3),
        "[DONE]",
    )
    chunks = decode("completions", read)
    assert [chunk.num_tokens for chunk in chunks] == [1, 2, 0]
    assert [chunk.token_ids for chunk in chunks] == [(5,), (6, 7), ()]


def test_a_usage_of_more_tokens_than_were_sent_is_kept_and_no_chunk_invents_them():
    read = sse(text_event("a", token_ids=[5]), text_event("b", "stop", token_ids=[6]))
    chunks = decode("completions", read, sse(usage_event(completion_tokens=3), "[DONE]"))
    assert [chunk.num_tokens for chunk in chunks] == [1, 1, 0]
    assert chunks[-1].usage == Usage(3, 3)


def test_tokens_are_counted_by_continuous_usage_where_there_are_no_ids():
    read = sse(
        chat_event({"role": "assistant", "content": ""}, usage={**USAGE, "completion_tokens": 0}),
        chat_event({"content": "a"}, usage={**USAGE, "completion_tokens": 1}),
        chat_event({"content": "b"}, usage={**USAGE, "completion_tokens": 4}),
        chat_event({}, "stop", usage={**USAGE, "completion_tokens": 4}),
        usage_event(completion_tokens=4),
        "[DONE]",
    )
    chunks = decode("chat", read)
    assert [(chunk.text, chunk.num_tokens) for chunk in chunks] == [("a", 1), ("b", 3), ("", 0)]
    assert chunks[-1].usage == Usage(3, 4)


def test_the_first_chat_event_with_a_role_alone_is_no_chunk_but_its_prompt_is_kept():
    read = sse(
        chat_event({"role": "assistant", "content": ""}, prompt_token_ids=[1, 2, 3]),
        chat_event({"content": "a"}),
        chat_event({"content": "b"}, "length"),
        usage_event(),
        "[DONE]",
    )
    chunks = decode("chat", read)
    assert [chunk.text for chunk in chunks] == ["a", "b"]
    assert chunks[0].prompt is not None
    assert chunks[0].prompt.token_ids == (1, 2, 3)
    assert chunks[1].prompt is None


def test_reasoning_and_tool_calls_are_chunks():
    call = {"index": 0, "id": "c1", "function": {"name": "f", "arguments": ""}}
    read = sse(
        chat_event({"reasoning_content": "hm"}),
        chat_event({"tool_calls": [call]}),
        chat_event({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}),
        chat_event({}, "tool_calls"),
        usage_event(),
        "[DONE]",
    )
    chunks = decode("chat", read)
    assert chunks[0].reasoning_text == "hm"
    assert chunks[1].tool_call_deltas == (ToolCallDelta(index=0, id="c1", name="f"),)
    assert chunks[2].tool_call_deltas == (ToolCallDelta(index=0, arguments="{}"),)
    assert chunks[3].finish_reason is FinishReason.TOOL_CALLS


def test_usage_may_come_with_the_finish_reason_and_tell_cached_tokens():
    usage = {**USAGE, "prompt_tokens_details": {"cached_tokens": 2}}
    [chunk] = decode("completions", sse(text_event("a", "stop", usage), "[DONE]"))
    assert chunk.usage == Usage(3, 2, 2)


def test_every_token_by_its_id_is_as_good_as_usage():
    read = sse(
        text_event("a", token_ids=[1], prompt_token_ids=[7, 8]), text_event("b", "stop", token_ids=[2]), "[DONE]"
    )
    assert decode("completions", read)[-1].usage == Usage(2, 2)


def test_a_stream_may_end_without_done_once_it_is_finished():
    chunks = decode("completions", sse(text_event("a", "stop"), usage_event()))
    assert chunks[-1].usage == Usage(3, 2)


# ---------------------------------------------------------------- log-probabilities


def test_completion_log_probabilities_are_ranked_and_cut_to_what_was_asked():
    logprobs = {
        "tokens": ["a"],
        "token_logprobs": [-2.0],
        "top_logprobs": [{"b": -0.1, "c": -0.3, "a": -2.0}],
        "text_offset": [0],
    }
    read = sse(text_event("a", "stop", USAGE, logprobs=logprobs, token_ids=[9]), "[DONE]")
    [chunk] = decode("completions", read, num_alternatives=2)
    alternatives = (TokenAlternative(None, "b", -0.1), TokenAlternative(None, "c", -0.3))
    assert chunk.logprobs == (TokenLogprob(9, "a", -2.0, alternatives),)


def test_chat_log_probabilities_carry_the_id_of_the_chosen_token():
    content = [{"token": "a", "logprob": -0.1, "top_logprobs": [{"token": "a", "logprob": -0.1}]}]
    event = chat_event({"content": "a"}, "stop", usage=USAGE)
    event["choices"][0] |= {"logprobs": {"content": content}, "token_ids": [4]}
    [chunk] = decode("chat", sse(event, "[DONE]"))
    assert chunk.logprobs == (TokenLogprob(4, "a", -0.1, (TokenAlternative(4, "a", -0.1),)),)


def test_log_probabilities_of_the_prompt_come_with_the_whole_answer():
    choice = {
        "index": 0, "text": "a", "finish_reason": "length", "prompt_token_ids": [1, 2],
        "prompt_logprobs": [None, {"2": {"logprob": -3.0, "decoded_token": "y"}, "5": {"logprob": -0.5}}],
    }  # fmt: skip
    body = json.dumps({"choices": [choice], "usage": USAGE}).encode()
    chunk = AnswerDecoder("completions", backend="b").whole(body, 4.0)
    assert chunk.prompt is not None
    assert chunk.prompt.logprobs == (
        None,
        TokenLogprob(2, "y", -3.0, (TokenAlternative(5, "", -0.5), TokenAlternative(2, "y", -3.0))),
    )
    assert (chunk.num_tokens, chunk.received_at) == (2, 4.0)


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("reads", "error", "problem"),
    [
        ([sse(text_event("a"))], BackendUnavailable, "before the answer was finished"),
        ([sse(text_event("a"), "[DONE]")], UpstreamError, "without a finish_reason"),
        ([sse(text_event("a", "stop"), "[DONE]")], UpstreamError, "without usage"),
        ([sse(text_event("a", "boredom"))], UpstreamError, "finished with 'boredom'"),
        ([sse('{"choices": [{"te')], UpstreamError, r'not understood .*: \{"choices": \[\{"te'),
        ([sse('{"choices": [{"text": 5}]}')], UpstreamError, "Expected `str"),
        ([b"data: \xff\xfe\n\n"], UpstreamError, "not understood"),
        ([sse(text_event("a", usage={**USAGE, "prompt_tokens": -3}))], UpstreamError, "negative"),
        ([sse(text_event("a", "stop", {**USAGE, "completion_tokens": -1}), "[DONE]")], UpstreamError, "negative"),
        (
            [sse(text_event("a", usage=USAGE), text_event("b", usage={**USAGE, "completion_tokens": 1}))],
            UpstreamError,
            "1 output tokens after it has sent 2",
        ),
        (
            [sse(text_event("abc", "stop", token_ids=[5, 6, 7]), usage_event(), "[DONE]")],
            UpstreamError,
            "2 output tokens after it has sent 3",
        ),
        ([sse({"choices": [{"index": 1, "text": "x"}]})], UpstreamError, "several choices"),
        ([sse({"error": {"message": "gone", "code": "engine_died"}})], EngineDied, "gone"),
        ([sse({"error": {"message": "bad", "code": 400}})], InvalidRequest, "bad"),
        ([sse({"error": {"message": "queue is full", "code": 503}})], BackendOverloaded, "queue is full"),
        ([sse({"error": "CUDA out of memory", "error_type": "generation"})], UpstreamError, "CUDA out of memory"),
    ],
)
def test_each_failure_is_a_typed_error_with_the_name_of_the_backend(reads, error, problem):
    with pytest.raises(error, match=problem) as caught:
        decode("completions", *reads)
    assert getattr(caught.value, "backend", "b") == "b"


def test_what_came_before_a_failure_in_the_same_read_is_given_out_first():
    decoder = AnswerDecoder("completions", backend="b")
    chunks = decoder.feed(SseParser().feed(sse(text_event("a"), text_event("b"), "{")), 1.0)
    assert [next(chunks).text, next(chunks).text] == ["a", "b"]
    with pytest.raises(UpstreamError, match="not understood"):
        next(chunks)


def test_a_long_snippet_is_cut():
    with pytest.raises(UpstreamError) as caught:
        decode("completions", sse("x" * 5000))
    assert len(str(caught.value)) < 500


def test_an_error_of_null_is_no_error_and_unknown_fields_are_ignored():
    read = sse({**text_event("a", "stop", USAGE), "error": None, "new_field": [1, {"x": 2}]}, "[DONE]")
    assert [chunk.text for chunk in decode("completions", read)] == ["a"]
