"""The whole way on the demo model: `get_backend("reference")`, its own process, text in and text out."""

import asyncio
import math
import os
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

import enginebay
from enginebay import LLM, SamplingParams
from enginebay.errors import ConfigError, ContextTooLong, EngineDied
from enginebay.types import Chat, Feature, FinishReason, GenerationRequest, HealthState, Message, Text, Usage

pytestmark = pytest.mark.weights

MODEL = "smollm2-135m"
# One thread: with more, each step waits for all of them, which takes for ever on a machine that is busy otherwise.
SMALL = {"max_num_seqs": 8, "max_model_len": 512, "dtype": "float32", "num_threads": 1, "offline": True}
PARIS = "The capital of France is"


@pytest.fixture(scope="module")
def llm():
    with LLM(MODEL, **SMALL) as llm:
        yield llm


def greedy(max_tokens=16, **fields):
    return SamplingParams(max_tokens=max_tokens, temperature=0.0, **fields)


# ---------------------------------------------------------------- the facade on real text


def test_it_knows_the_capital_of_france(llm):
    [result] = llm.generate(PARIS, greedy(6))
    assert "Paris" in result.text
    assert result.outputs[0].finish_reason is FinishReason.LENGTH
    assert result.outputs[0].usage.num_output_tokens == len(result.outputs[0].token_ids) == 6


def test_the_script_of_the_lesson_runs_with_its_import_changed():
    from enginebay import LLM, SamplingParams

    with pytest.raises(ConfigError, match="tensor_parallel_size=2"):
        LLM(model=MODEL, tensor_parallel_size=2, max_num_seqs=256, max_model_len=4096)
    llm = LLM(model=MODEL, tensor_parallel_size=1, max_num_seqs=256, max_model_len=512, num_threads=1)
    sampling_params = SamplingParams(temperature=0.8, top_p=0.95, max_tokens=8)
    prompts = ["Explain quantum computing:", "Write a haiku about AI:", "What is the capital of France?"]
    outputs = llm.generate(prompts, sampling_params)
    for prompt, output in zip(prompts, outputs, strict=True):
        assert output.prompt == prompt
        assert output.text == output.outputs[0].text
        assert 1 <= len(output.outputs[0].token_ids) <= 8
    llm.close()


def test_a_chat_ends_itself_and_its_text_has_no_special_tokens(llm):
    [result] = llm.chat([{"role": "user", "content": "What is the capital of France?"}], greedy(32))
    assert "Paris" in result.text
    assert result.outputs[0].finish_reason is FinishReason.STOP
    assert "<|" not in result.text


def uncached(usage: Usage | None) -> Usage:
    """The second time a prompt comes, its prefix is known."""
    assert usage is not None
    return replace(usage, num_cached_tokens=None)


def test_streamed_pieces_add_up_to_the_final_text(llm):
    for prompt in (PARIS, "Emoji: 😀 😃 😀 😃", "日本語のテキスト、日本語の"):
        pieces = list(llm.stream(prompt, greedy(12)))
        [whole] = llm.generate(prompt, greedy(12))
        assert not any("\ufffd" in piece.text for piece in pieces[:-1])
        assert "".join(piece.text for piece in pieces) == whole.text
        assert [token_id for piece in pieces for token_id in piece.token_ids] == list(whole.outputs[0].token_ids)
        assert uncached(pieces[-1].usage) == uncached(whole.outputs[0].usage)


def test_an_emoji_is_sent_whole_with_its_last_token_even_over_two_streams():
    async def main():
        async with backend_with() as backend:
            token_ids = await backend.count_tokens(Text("🦄", add_special_tokens=False))
            assert len(token_ids) > 1
            forced = greedy(len(token_ids), logit_bias={token_ids[-1]: 100.0})
            [chunk] = await collect(backend, request("Say it:", forced, resume_token_ids=token_ids[:-1]))
            assert (chunk.text, chunk.token_ids) == ("🦄", token_ids[-1:])

    asyncio.run(main())


def test_stop_strings_cut_the_text_wherever_they_fall(llm):
    prompt = "Count: 1, 2, 3,"
    [whole] = llm.generate(prompt, greedy(16))
    for stop in (whole.text[5:9], whole.text[7]):
        place = whole.text.index(stop)
        [cut] = llm.generate(prompt, greedy(16, stop=(stop,)))
        assert cut.text == whole.text[:place]
        assert (cut.outputs[0].finish_reason, cut.outputs[0].stop_reason) == (FinishReason.STOP, stop)
        assert cut.outputs[0].usage.num_output_tokens == len(cut.outputs[0].token_ids) < 16
    [kept] = llm.generate(prompt, greedy(16, stop=(stop,), include_stop_str_in_output=True))
    assert kept.text == whole.text[: place + len(stop)]
    [held] = llm.generate(prompt, greedy(16, stop=(",",), min_tokens=9))
    assert held.text == whole.text[: len(held.text)]
    assert held.outputs[0].usage.num_output_tokens > 9


def test_logprobs_are_probabilities_and_the_greedy_token_is_the_best(llm):
    [result] = llm.generate(PARIS, greedy(5), logprobs=3)
    output = result.outputs[0]
    assert len(output.logprobs) == 5
    for token_id, entry in zip(output.token_ids, output.logprobs, strict=True):
        assert entry.token_id == token_id
        assert entry.alternatives[0].token_id == token_id
        assert len(entry.alternatives) == 3
        assert entry.logprob <= 0
        assert sum(math.exp(alternative.logprob) for alternative in entry.alternatives) <= 1.0001
    assert "".join(entry.token for entry in output.logprobs) == result.text


def test_n_outputs_differ_and_a_seed_repeats_them(llm):
    sampling = SamplingParams(max_tokens=6, temperature=1.0, seed=3)
    [first] = llm.generate("Once upon a time", sampling, n=4)
    [again] = llm.generate("Once upon a time", sampling, n=4)
    texts = [output.text for output in first.outputs]
    assert texts == [output.text for output in again.outputs]
    assert len(set(texts)) > 1


def test_a_prompt_that_is_too_long_is_refused_and_named(llm):
    with pytest.raises(ContextTooLong) as caught:
        llm.generate(["fine", "word " * 3000], greedy(4))
    assert caught.value.limit == 512
    assert "prompt 1 of 2" in caught.value.__notes__[0]


# ---------------------------------------------------------------- the protocol


@asynccontextmanager
async def backend_with(**settings):
    async with enginebay.get_backend("reference", model=MODEL, **SMALL, **settings) as backend:
        yield backend


def request(prompt=PARIS, sampling=None, **fields):
    prompt = Text(prompt) if isinstance(prompt, str) else prompt
    return GenerationRequest(request_id="r", prompt=prompt, sampling=sampling or greedy(), **fields)


async def collect(backend, asked):
    return [chunk async for chunk in backend.generate(asked)]


def test_a_resumed_stream_goes_on_as_if_it_had_never_stopped():
    async def main():
        async with backend_with() as backend:
            sampling = SamplingParams(max_tokens=8, temperature=0.9, seed=11, presence_penalty=0.5)
            whole = await collect(backend, request(sampling=sampling))
            token_ids = [token_id for chunk in whole for token_id in chunk.token_ids]
            for cut in (1, 5):
                rest = await collect(backend, request(sampling=sampling, resume_token_ids=tuple(token_ids[:cut])))
                assert [token_id for chunk in rest for token_id in chunk.token_ids] == token_ids[cut:]
                assert "".join(c.text for c in whole[:cut]) + "".join(c.text for c in rest) == "".join(
                    c.text for c in whole
                )

    asyncio.run(main())


def test_prompt_logprobs_without_output_score_a_text():
    async def main():
        async with backend_with() as backend:
            sampling = SamplingParams(max_tokens=0)
            [chunk] = await collect(backend, request("The capital of France is Paris", sampling, prompt_logprobs=1))
            assert chunk.prompt.tokens[-1] == " Paris"
            assert chunk.prompt.logprobs[0] is None
            assert chunk.prompt.logprobs[-1].alternatives[0].token == " Paris"
            assert chunk.usage.num_output_tokens == 0

    asyncio.run(main())


def test_counted_tokens_are_the_prompt_tokens_of_the_usage():
    async def main():
        async with backend_with() as backend:
            assert Feature.COUNT_TOKENS in backend.info.capabilities
            for prompt in (Text(PARIS), Chat((Message("user", "Hi"),))):
                [chunk] = await collect(backend, request(prompt, greedy(1), delivery="final"))
                assert len(await backend.count_tokens(prompt)) == chunk.usage.num_prompt_tokens

    asyncio.run(main())


def test_two_megabytes_of_prompt_leave_the_event_loop_free():
    async def main():
        async with backend_with() as backend:
            longest_gap_s = 0.0

            async def heartbeat():
                nonlocal longest_gap_s
                last_at = time.monotonic()
                while True:
                    await asyncio.sleep(0.005)
                    longest_gap_s = max(longest_gap_s, time.monotonic() - last_at)
                    last_at = time.monotonic()

            beating = asyncio.create_task(heartbeat())
            begun_at = time.monotonic()
            with pytest.raises(ContextTooLong):
                await collect(backend, request("The quick brown fox. " * 100_000))
            took_s = time.monotonic() - begun_at
            beating.cancel()
            assert longest_gap_s < max(0.25, took_s / 2)

    asyncio.run(main())


def test_a_hundred_streams_ended_anyhow_leave_no_block_behind():
    async def main():
        async with backend_with() as backend:
            for round_number in range(4):
                streams = [
                    asyncio.create_task(collect(backend, request(f"{number} bottles", greedy(40, ignore_eos=True))))
                    for number in range(25)
                ]
                await asyncio.sleep(0.05 * round_number)
                for stream in streams:
                    stream.cancel()
                await asyncio.gather(*streams, return_exceptions=True)
            assert "Paris" in (await collect(backend, request(delivery="final")))[0].text
            await _until_idle(backend)
            stats = await backend.stats()
            assert stats.kv_cache_usage_ratio == 0
            assert stats.requests_running == stats.requests_waiting == 0
            assert stats.requests_total_by_finish_reason["abort"] >= 50

    asyncio.run(main())


async def _until_idle(backend):
    """The counters are pushed with the engine's messages: ask until the last cancel has come back."""
    async with asyncio.timeout(10):
        while True:
            stats = await backend.stats()
            if stats.requests_running == stats.requests_waiting == 0 and stats.kv_cache_usage_ratio == 0:
                return
            await asyncio.sleep(0.02)


def test_an_engine_that_is_killed_gives_its_streams_a_typed_error_and_is_dead():
    async def main():
        async with backend_with() as backend:
            stream = backend.generate(request(sampling=greedy(500, ignore_eos=True)))
            await anext(stream)
            os.kill(backend.inner._process.pid, 9)
            with pytest.raises(EngineDied):
                async for _ in stream:
                    pass
            assert (await backend.health()).state is HealthState.DEAD

    asyncio.run(main())
