"""Streams and whole answers, compared with what the JSON must say."""

import json

from enginebay.types import FinishReason, GenerationChunk, PromptEcho, TokenLogprob, ToolCallDelta, Usage
from enginebay.wire.openai_chat_response import ChatEncoder
from enginebay.wire.openai_completion_response import CompletionEncoder
from enginebay.wire.openai_responses import ResponseOptions, has_content
from enginebay.wire.openai_usage import UsageTally, usage_body, usage_json


def options(**fields: object) -> ResponseOptions:
    return ResponseOptions(response_id="cmpl-1", created=17, model="tiny", **fields)


def opened(encoder: CompletionEncoder | ChatEncoder) -> CompletionEncoder | ChatEncoder:
    encoder.opening()
    return encoder


def events(data: bytes) -> list[dict]:
    assert data.endswith(b"\n\n")
    return [json.loads(event.removeprefix(b"data: ")) for event in data.split(b"\n\n")[:-1]]


def test_the_fast_path_writes_what_the_slow_path_would() -> None:
    chunk = GenerationChunk(text='a "quote" \\ \n ünïcode \u2028 \x00', received_at=0.0)
    for continuous in (None, Usage(3, 2, 1)):
        fast = opened(CompletionEncoder(options())).piece(0, chunk, continuous)
        slow = opened(CompletionEncoder(options(wants_token_ids=True))).piece(0, chunk, continuous)
        [quick], [careful] = events(fast), events(slow)
        for choice in careful["choices"]:
            del choice["token_ids"], choice["prompt_token_ids"]
        assert quick == careful
        assert list(quick) == list(careful)


def test_the_fast_path_of_a_chat_writes_what_the_slow_path_would() -> None:
    chunk = GenerationChunk(text='{"a": "\u2029"}', received_at=0.0)
    [quick] = events(opened(ChatEncoder(options())).piece(0, chunk, None))
    [careful] = events(opened(ChatEncoder(options(wants_token_ids=True))).piece(0, chunk, None))
    del careful["choices"][0]["token_ids"], careful["prompt_token_ids"]
    assert quick == careful


def test_usage_by_hand_is_usage_by_the_encoder() -> None:
    for usage in (Usage(1, 2), Usage(10, 20, 5), Usage(0, 0, 0)):
        body = usage_body(usage)
        details = None if body.prompt_tokens_details is None else {"cached_tokens": usage.num_cached_tokens}
        assert json.loads(usage_json(usage)) == {
            "prompt_tokens": body.prompt_tokens,
            "completion_tokens": body.completion_tokens,
            "total_tokens": body.total_tokens,
            "prompt_tokens_details": details,
        }


def test_tokens_are_counted_until_the_engine_tells() -> None:
    tally = UsageTally(num_choices=2, choices_per_prompt=2)
    echo = PromptEcho(token_ids=(1, 2, 3))
    for index in (0, 1):
        tally.add(index, GenerationChunk(token_ids=(5, 6), num_tokens=2, prompt=echo, received_at=0.0))
    tally.add(0, GenerationChunk(token_ids=(7,), received_at=0.0))
    assert tally.of_choice(0) == Usage(3, 3)
    tally.add(0, GenerationChunk(usage=Usage(3, 9, 2), finish_reason=FinishReason.STOP, received_at=0.0))
    assert tally.total() == Usage(3, 11, 2)


def test_prompt_token_ids_stand_once_at_the_top_of_a_chat_stream() -> None:
    encoder = opened(ChatEncoder(options(wants_token_ids=True)))
    first = GenerationChunk(text="a", token_ids=(1,), prompt=PromptEcho((7, 8)), received_at=0.0)
    second = GenerationChunk(text="b", token_ids=(2,), received_at=0.0)
    [one], [two] = events(encoder.piece(0, first, None)), events(encoder.piece(0, second, None))
    assert one["prompt_token_ids"] == [7, 8]
    assert "prompt_token_ids" not in two
    assert two["choices"][0]["token_ids"] == [2]


def test_reasoning_and_tool_calls_have_their_own_members() -> None:
    call = ToolCallDelta(index=0, id="c1", name="f", arguments='{"a":')
    chunk = GenerationChunk(reasoning_text="hm", tool_call_deltas=(call,), received_at=0.0)
    [event] = events(opened(ChatEncoder(options())).piece(0, chunk, None))
    function = {"name": "f", "arguments": '{"a":'}
    assert event["choices"][0]["delta"] == {
        "reasoning": "hm",
        "tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": function}],
    }
    answer = GenerationChunk(
        tool_call_deltas=(call,), usage=Usage(1, 1), finish_reason=FinishReason.TOOL_CALLS, received_at=0.0
    )
    whole = json.loads(ChatEncoder(options()).final([answer], Usage(1, 1)))
    message = whole["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [{"id": "c1", "type": "function", "function": function}]


def test_prompt_logprobs_are_ranked_by_token_id() -> None:
    entry = TokenLogprob(5, "five", -3.0)
    answer = GenerationChunk(
        text="x",
        usage=Usage(2, 1),
        finish_reason=FinishReason.LENGTH,
        prompt=PromptEcho((4, 5), logprobs=(None, entry), tokens=("four", "five")),
        received_at=0.0,
    )
    whole = json.loads(CompletionEncoder(options(wants_prompt_logprobs=True)).final([answer], Usage(2, 1)))
    expected = [None, {"5": {"logprob": -3.0, "rank": None, "decoded_token": "five"}}]
    assert whole["choices"][0]["prompt_logprobs"] == expected


def test_a_token_without_text_is_news_and_an_empty_chunk_is_not() -> None:
    assert has_content(GenerationChunk(token_ids=(3,), num_tokens=1, received_at=0.0))
    assert not has_content(GenerationChunk(num_tokens=0, token_ids=(), received_at=0.0))
