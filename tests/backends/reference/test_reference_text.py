"""Tokens of the engine become text, usage and log-probabilities."""

import asyncio

import pytest
from fake_process import FakeReady, says
from scripted_reference import EOS, chunks_of, ids, request, started, text_of
from tiny_tokenizers import metaspace

from enginebay.engine.request import EngineOutput, PositionLogprobs
from enginebay.types import (
    Chat,
    FinishReason,
    Message,
    Text,
    TokenIds,
)

# ---------------------------------------------------------------- text, usage, finish


def test_a_stream_has_one_chunk_for_each_output_cumulative_usage_and_one_last_chunk(model_dir):
    answer = ids("the fox 🙂")
    chunks, stream = chunks_of(model_dir, says(*answer, EOS, finish_reason="stop"), request("hello world"))
    assert text_of(chunks) == "the fox 🙂"
    assert [chunk.usage.num_output_tokens for chunk in chunks] == list(range(1, len(answer) + 2))
    assert [chunk.finish_reason for chunk in chunks] == [None] * len(answer) + [FinishReason.STOP]
    assert chunks[-1].token_ids == (EOS,)
    assert chunks[-1].stop_reason is None
    assert chunks[-1].usage.num_prompt_tokens == len(ids("hello world")) == len(stream.request.prompt_token_ids)
    assert [chunk.received_at for chunk in chunks] == [101.0 + index for index in range(len(chunks))]


def test_the_first_chunk_alone_tells_what_became_of_the_prompt(model_dir):
    chunks, _ = chunks_of(model_dir, says(*ids("the fox")), request("hello"))
    assert chunks[0].prompt.token_ids == tuple(ids("hello"))
    assert all(chunk.prompt is None for chunk in chunks[1:])


def test_a_final_delivery_is_the_same_stream_in_one_chunk(model_dir):
    script = says(*ids("the fox 🙂"), EOS, finish_reason="stop")
    parts, _ = chunks_of(model_dir, script, request(logprobs=None))
    [whole], _ = chunks_of(model_dir, script, request(delivery="final"))
    assert whole.text == text_of(parts)
    assert whole.token_ids == tuple(token_id for part in parts for token_id in part.token_ids)
    assert (whole.usage, whole.finish_reason, whole.prompt) == (
        parts[-1].usage,
        parts[-1].finish_reason,
        parts[0].prompt,
    )


def test_the_text_of_a_stop_token_is_left_out_unless_it_is_asked_for(model_dir):
    [fox] = ids(" fox")
    script = says(*ids("the"), fox, finish_reason="stop", stop_token_id=fox)
    asked = {"stop_token_ids": (fox,)}
    chunks, _ = chunks_of(model_dir, script, request(sampling=asked))
    assert (text_of(chunks), chunks[-1].stop_reason, chunks[-1].token_ids) == ("the", fox, (fox,))
    chunks, _ = chunks_of(model_dir, script, request(sampling={**asked, "include_stop_str_in_output": True}))
    assert text_of(chunks) == "the fox"


def test_half_a_character_at_the_end_of_the_tokens_is_left_to_a_stream_that_resumes_it(model_dir):
    *head, end = ids("a🙂")
    chunks, _ = chunks_of(model_dir, says(*head), request())
    assert text_of(chunks) == "a"
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    rest, _ = chunks_of(model_dir, says(end), request(resume_token_ids=tuple(head)))
    assert text_of(rest) == "🙂"


def test_the_blank_of_the_first_word_behind_a_sentencepiece_prompt_is_kept(model_dir):
    tokenizer = metaspace()
    tokenizer.save(str(model_dir / "tokenizer.json"))
    answer = tokenizer.encode("the").ids
    asked = request("fox")
    assert text_of(chunks_of(model_dir, says(*answer), asked)[0]) == " the"


def test_a_chat_goes_through_the_template(model_dir):
    _, stream = chunks_of(model_dir, says(1), request(Chat((Message("user", "the quick fox"),))))
    assert stream.request.prompt_token_ids == ids("the quick fox")


def test_count_tokens_gives_the_ids_that_the_engine_would_see(model_dir):
    async def main():
        async with started(model_dir, says(1)) as (backend, _):
            assert await backend.count_tokens(Text("the fox")) == tuple(ids("the fox"))
            assert await backend.count_tokens(TokenIds((1, 2))) == (1, 2)
            assert await backend.count_tokens(Chat((Message("user", "hello"),))) == tuple(ids("hello"))

    asyncio.run(main())


# ---------------------------------------------------------------- stop strings


def test_a_stop_string_over_tokens_ends_the_text_and_cancels_in_the_engine(model_dir):
    script = says(*ids("hello st"), *ids("op words"), finish_reason=None)
    chunks, stream = chunks_of(model_dir, script, request(sampling={"stop": ("stop",)}))
    assert text_of(chunks) == "hello "
    assert (chunks[-1].finish_reason, chunks[-1].stop_reason) == (FinishReason.STOP, "stop")
    assert stream.is_cancelled
    assert chunks[-1].usage.num_output_tokens == stream.num_read


def test_tokens_of_the_same_step_after_the_stop_are_discarded_and_no_usage(model_dir):
    before, after = ids("hello END"), ids(" and more")

    def script(asked):
        yield EngineOutput(request_id=asked.request_id, token_ids=[*before, *after], finish_reason=None)

    [chunk], stream = chunks_of(model_dir, script, request(max_tokens=40, sampling={"stop": ("END",)}))
    assert chunk.text == "hello "
    assert chunk.token_ids == tuple(before)
    assert (chunk.usage.num_output_tokens, chunk.usage.num_discarded_tokens) == (len(before), len(after))
    assert stream.is_cancelled


def test_tokens_that_had_arrived_after_the_stop_are_discarded_too(model_dir):
    async def main():
        async with started(model_dir, says(*ids("END"), *ids(" more"), finish_reason=None)) as (backend, process):
            stream = backend.generate(request(sampling={"stop": ("END",)}))
            first = await anext(stream)
            process.streams[0].num_unread_tokens = 3
            last = first if first.finish_reason else [chunk async for chunk in stream][-1]
            assert last.usage.num_discarded_tokens == 3

    asyncio.run(main())


def test_text_kept_back_for_a_stop_string_comes_with_the_last_chunk(model_dir):
    chunks, _ = chunks_of(model_dir, says(*ids("the ST")), request(sampling={"stop": ("STOP",)}))
    assert text_of(chunks) == "the ST"
    assert chunks[-1].text.endswith("ST")


@pytest.mark.parametrize("min_tokens", [0, 3, 40])
def test_no_stop_string_counts_within_min_tokens(model_dir, min_tokens):
    script = says(*ids("x"), *ids("END"), *ids("y"), *ids("END"), *ids("z"))
    chunks, _ = chunks_of(
        model_dir, script, request(max_tokens=40, sampling={"stop": ("END",), "min_tokens": min_tokens})
    )
    num_end = len(ids("END"))
    if min_tokens == 0:
        assert text_of(chunks) == "x"
    elif min_tokens < 1 + num_end:
        assert text_of(chunks) == "x"
        assert chunks[-1].usage.num_output_tokens > min_tokens
    else:
        assert text_of(chunks) == "xENDyENDz"


def test_a_resumed_stream_sends_only_what_the_first_part_had_not_sent(model_dir):
    all_ids = ids("the 🙂 STOP fox")
    whole, _ = chunks_of(model_dir, says(*all_ids), request(max_tokens=40, sampling={"stop": ("STOP!",)}))
    for cut in range(1, len(all_ids)):
        head, _ = chunks_of(model_dir, says(*all_ids[:cut], 1), request(max_tokens=40, sampling={"stop": ("STOP!",)}))
        rest, stream = chunks_of(
            model_dir,
            says(*all_ids[cut:]),
            request(max_tokens=40, sampling={"stop": ("STOP!",)}, resume_token_ids=tuple(all_ids[:cut])),
        )
        assert text_of(head[:cut]) + text_of(rest) == text_of(whole)
        assert stream.request.resume_token_ids == all_ids[:cut]


# ---------------------------------------------------------------- log-probabilities


def test_logprobs_carry_the_text_of_each_token(model_dir):
    the, fox = ids("the")[0], ids(" fox")[0]

    def script(asked):
        assert asked.num_logprobs == 1
        assert asked.num_prompt_logprobs == 1
        yield EngineOutput(
            request_id=asked.request_id,
            token_ids=[the],
            logprobs=[PositionLogprobs(the, -0.5, [fox], [-0.25])],
            prompt_logprobs=[None, PositionLogprobs(fox, -1.0, [the], [-0.1])],
            finish_reason="length",
        )

    [chunk], _ = chunks_of(model_dir, script, request(TokenIds((the, fox)), logprobs=1, prompt_logprobs=1))
    [logprob] = chunk.logprobs
    assert (logprob.token, logprob.token_id, logprob.logprob) == ("the", the, -0.5)
    assert [(entry.token, entry.logprob) for entry in logprob.alternatives] == [(" fox", -0.25)]
    assert chunk.prompt.tokens == ("the", " fox")
    assert chunk.prompt.logprobs[0] is None
    assert chunk.prompt.logprobs[1].token == " fox"


def test_max_tokens_zero_computes_the_prompt_and_returns_no_token(model_dir):
    asked = request(TokenIds((1,) * 16), max_tokens=0)  # they fill the context
    [chunk], stream = chunks_of(model_dir, says_nothing, asked, ready=FakeReady(max_model_len=16))
    assert stream.request.max_tokens == 0
    assert (chunk.text, chunk.token_ids, chunk.finish_reason) == ("", (), FinishReason.LENGTH)
    assert (chunk.usage.num_output_tokens, chunk.usage.num_discarded_tokens) == (0, 0)
    assert chunk.prompt is not None


def says_nothing(asked):
    return [EngineOutput(request_id=asked.request_id, token_ids=[], finish_reason="length")]
