import asyncio
import random
import threading
from contextlib import asynccontextmanager

import pytest
from fake_process import FakeProcess, FakeReady, says
from tiny_tokenizers import byte_level, metaspace

from enginebay.backend import BackendContext
from enginebay.backends.reference.backend import ReferenceBackend
from enginebay.backends.reference.effective_settings import effective_settings
from enginebay.backends.reference.engine_messages import EngineReady
from enginebay.backends.reference.options import ReferenceOptions
from enginebay.clock import MonotonicClock
from enginebay.engine.request import EngineOutput, PositionLogprobs
from enginebay.engine.settings import EngineConfig
from enginebay.errors import (
    ContextTooLong,
    DeadlineExceeded,
    EngineDied,
    EngineStepFailed,
    InvalidRequest,
    NotStarted,
    StartFailed,
    UnsupportedFeature,
)
from enginebay.guard import GuardedBackend
from enginebay.monitoring import instrument
from enginebay.types import (
    Chat,
    FinishReason,
    GenerationRequest,
    Health,
    HealthState,
    Message,
    SamplingParams,
    Text,
    TokenIds,
)

EOS = byte_level().token_to_id("<|im_end|>")


def ids(text):
    return byte_level().encode(text).ids


@pytest.fixture
def model_dir(tmp_path):
    """A directory that looks like a model; nothing but its tokenizer is read on this side."""
    byte_level().save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16"}')
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{{ messages[0].content }}"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


def new_backend(model_dir, process, *, settings=None, options=None, seed=0, environment=None):
    context = BackendContext(
        name="reference",
        model=str(model_dir),
        options=ReferenceOptions.model_validate(options or {}),
        settings=settings or {},
        clock=MonotonicClock(),
        seed=seed,
        environment=environment or {},
    )
    return GuardedBackend(ReferenceBackend(context, make_process=process))


@asynccontextmanager
async def started(model_dir, script, *, ready=None, **others):
    process = FakeProcess(script, ready=ready)
    async with new_backend(model_dir, process, **others) as backend:
        yield backend, process
    assert process.is_closed


def request(prompt="hello", *, max_tokens=8, sampling=None, **fields):
    prompt = Text(prompt) if isinstance(prompt, str) else prompt
    params = SamplingParams(max_tokens=max_tokens, **(sampling or {}))
    return GenerationRequest(request_id="r", prompt=prompt, sampling=params, **fields)


async def collect(backend, asked):
    return [chunk async for chunk in backend.generate(asked)]


def chunks_of(model_dir, script, asked, **others):
    """All chunks of one request, and the engine's view of it."""

    async def main():
        async with started(model_dir, script, **others) as (backend, process):
            return await collect(backend, asked), process.streams[0]

    return asyncio.run(main())


def text_of(chunks):
    return "".join(chunk.text for chunk in chunks)


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


# ---------------------------------------------------------------- requests that are refused


async def refusal_at_call(backend, asked, error):
    with pytest.raises(error) as caught:
        backend.generate(asked)
    return caught.value


def test_impossible_token_ids_are_refused_at_the_call_by_the_name_of_their_field(model_dir):
    async def main():
        async with started(model_dir, says(1)) as (backend, process):
            vocab_size = process.ready.vocab_size
            for asked, field in [
                (request(TokenIds((1, vocab_size))), "prompt"),
                (request(resume_token_ids=(vocab_size,)), "resume_token_ids"),
                (request(max_tokens=2, resume_token_ids=(1, 2)), "resume_token_ids"),
                (request(sampling={"stop_token_ids": (-1,)}), "stop_token_ids"),
                (request(sampling={"logit_bias": {vocab_size: 1.0}}), "logit_bias"),
            ]:
                assert (await refusal_at_call(backend, asked, InvalidRequest)).field == field
            assert process.streams == []

    asyncio.run(main())


def test_a_prompt_that_is_too_long_never_reaches_the_engine(model_dir):
    async def main():
        async with started(model_dir, says(1), ready=FakeReady(max_model_len=16)) as (backend, process):
            error = await refusal_at_call(backend, request(TokenIds((1,) * 16)), ContextTooLong)
            assert (error.num_tokens, error.limit, error.field) == (16, 16, "prompt")
            await refusal_at_call(backend, request(TokenIds((1,) * 15), max_tokens=2), ContextTooLong)
            stream = backend.generate(request("the fox " * 9000))
            with pytest.raises(ContextTooLong):
                await anext(stream)
            with pytest.raises(ContextTooLong) as caught:
                await anext(backend.generate(request(Chat((Message("user", "x" * 99),)))))
            assert caught.value.field == "messages"
            assert process.streams == []
            await anext(backend.generate(request(TokenIds((1,) * 15), max_tokens=1)))
            assert len(process.streams) == 1

    asyncio.run(main())


def test_a_truncated_prompt_keeps_its_end(model_dir):
    _, stream = chunks_of(model_dir, says(1), request(TokenIds((*range(100),)), truncate_prompt_tokens=3))
    assert stream.request.prompt_token_ids == [97, 98, 99]


def test_an_empty_prompt_is_refused(model_dir):
    with pytest.raises(InvalidRequest, match="empty"):
        chunks_of(model_dir, says(1), request(""))


def test_a_template_in_the_request_is_refused_unless_the_operator_trusts_it(model_dir):
    asked = request(Chat((Message("user", "x"),), template="the fox"))
    with pytest.raises(UnsupportedFeature, match="chat_template"):
        chunks_of(model_dir, says(1), asked)
    _, stream = chunks_of(model_dir, says(1), asked, options={"trust_request_chat_template": True})
    assert stream.request.prompt_token_ids == ids("the fox")


# ---------------------------------------------------------------- seeds, loop, cancellation, errors


def test_a_seed_is_passed_on_and_a_missing_one_is_drawn_from_the_injected_source(model_dir):
    async def main(seed, settings=None):
        async with started(model_dir, says(1), seed=seed, settings=settings) as (backend, process):
            for asked in (request(sampling={"seed": 42}), request(), request()):
                await collect(backend, asked)
            return [stream.request.seed for stream in process.streams]

    given, first, second = asyncio.run(main(5))
    assert given == 42
    assert first != second
    assert first == random.Random(5).getrandbits(62)
    assert asyncio.run(main(5)) == [given, first, second]
    assert asyncio.run(main(6))[1] != first
    assert asyncio.run(main(6, {"seed": 5}))[1] == first


def test_a_long_prompt_is_tokenised_beside_the_event_loop(model_dir, monkeypatch):
    async def main():
        async with started(model_dir, says(1), ready=FakeReady(max_model_len=10**7)) as (backend, _):
            is_loop_alive = threading.Event()
            encode = backend.inner._tokenizer.encode

            def blocking_encode(text, *, add_special_tokens):
                assert is_loop_alive.wait(30), "the event loop stood still while a prompt was tokenised"
                return encode(text, add_special_tokens=add_special_tokens)

            monkeypatch.setattr(backend.inner._tokenizer, "encode", blocking_encode)
            consumer = asyncio.create_task(collect(backend, request("the fox " * 2000)))
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_soon(is_loop_alive.set)
            assert (await consumer)[-1].usage.num_prompt_tokens > 2000

    asyncio.run(main())


def test_two_requests_with_one_id_are_two_requests_for_the_engine(model_dir):
    async def main():
        async with started(model_dir, says(1)) as (backend, process):
            await asyncio.gather(collect(backend, request()), collect(backend, request()))
            assert len({stream.request.request_id for stream in process.streams}) == 2

    asyncio.run(main())


def test_however_a_stream_ends_early_the_engine_is_told(model_dir):
    async def main():
        async with started(model_dir, says(1, 2, finish_reason=None)) as (backend, process):
            backend.generate(request())
            assert process.streams == []

            stream = backend.generate(request())
            await anext(stream)
            assert not process.streams[0].is_cancelled
            await stream.aclose()
            assert process.streams[0].is_cancelled
            assert not process.at_end.is_set()

            consumer = asyncio.create_task(collect(backend, request()))
            await process.at_end.wait()
            consumer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await consumer
            assert process.streams[1].is_cancelled
            assert (await backend.stats()).requests_total_by_finish_reason == {"abort": 2}

    asyncio.run(main())


def test_a_passed_deadline_ends_the_stream_with_its_own_error(model_dir):
    async def main():
        async with started(model_dir, says(1, finish_reason=None)) as (backend, process):
            with pytest.raises(DeadlineExceeded):
                await collect(backend, request(deadline_at=MonotonicClock().now() + 0.05))
            assert process.streams[0].is_cancelled

    asyncio.run(main())


def test_a_deadline_that_has_passed_is_refused_before_any_work(model_dir, monkeypatch):
    async def main():
        async with started(model_dir, says(1)) as (backend, process):
            monkeypatch.setattr("enginebay.backends.reference.backend.prompt_token_ids", None)
            with pytest.raises(DeadlineExceeded, match="before the engine was asked"):
                await collect(backend, request(deadline_at=MonotonicClock().now() - 5))
            assert process.streams == []
            assert (await backend.stats()).requests_total_by_finish_reason == {"error": 1}

    asyncio.run(main())


def test_errors_of_the_engine_are_typed_and_counted(model_dir):
    def failing(asked):
        yield EngineOutput(request_id=asked.request_id, token_ids=[], finish_reason="error", error="step 3: bad")

    async def main(script, error):
        async with started(model_dir, script) as (backend, _):
            with pytest.raises(error):
                await collect(backend, request())
            assert (await backend.stats()).requests_total_by_finish_reason == {"error": 1}

    asyncio.run(main(failing, EngineStepFailed))
    asyncio.run(main(lambda asked: [EngineDied("killed")], EngineDied))


def test_a_deadline_that_the_engine_cannot_meet_is_told_as_such_and_counted(model_dir):
    def refusing(asked):
        assert asked.deadline_at == 1e15
        assert asked.has_stop_strings == (asked.max_tokens == 9)
        yield EngineOutput(
            request_id=asked.request_id,
            token_ids=[],
            finish_reason="error",
            error="cannot be met",
            error_kind="deadline",
        )

    async def main():
        async with started(model_dir, refusing) as (backend, _):
            for fields in ({}, {"max_tokens": 9, "sampling": {"stop": ("x",)}}):
                with pytest.raises(DeadlineExceeded, match="cannot be met") as refused:
                    await collect(backend, request(deadline_at=1e15, **fields))
                assert refused.value.field == "deadline_at"
            stats = await backend.stats()
            assert stats.requests_total_by_finish_reason == {"error": 2}
            assert stats.extra["enginebay_engine_deadline_exceeded_total"] == 2

    asyncio.run(main())


# ---------------------------------------------------------------- life and statistics


def test_the_info_tells_the_context_and_the_effective_settings_after_start(model_dir):
    async def main():
        settings = {"max_num_seqs": 3, "dtype": "auto", "served_model_name": "assistant"}
        async with started(model_dir, says(1), settings=settings, options={"policy": "naive"}) as (backend, process):
            info = backend.info
            assert (info.model, info.max_model_len) == ("assistant", 64)
            assert process.config.max_num_seqs == 3
            assert (process.config.policy, process.config.dtype) == ("naive", "bfloat16")
            assert info.effective_settings["policy"] == "naive"
            assert info.effective_settings["dtype"] == "float32", "what the engine says goes before what was asked"
            assert "max_num_seqs" not in info.effective_settings, "the naive policy has one slot, whatever was asked"
            assert not any(str(model_dir) in str(value) for value in info.effective_settings.values())
            assert (await backend.health()).state is HealthState.READY

    asyncio.run(main())


def test_the_effective_settings_are_those_the_engine_says_it_has():
    ready = EngineReady(
        max_model_len=64, vocab_size=9, eos_token_ids=(1,), num_blocks=7, block_size=8, architecture="Tiny",
        dtype="float32", device="cpu", policy="static", max_num_seqs=4, max_num_batched_tokens=99, num_threads=2,
        enable_prefix_caching=False, kernels="plain", torch_version="2", memory="much",
        quantization="int8", weight_bytes=1, stored_weight_bytes=2, weight_layouts="linear, int8 1",
        kv_cache_allocated_bytes=1,
    )  # fmt: skip
    asked = EngineConfig(
        model_dir="/weights", policy="static", dtype="bfloat16", max_num_seqs=5, quantization="int8"
    )  # fmt: skip
    assert effective_settings(asked, ready) == {
        "policy": "static", "dtype": "float32", "device": "cpu", "kernels": "plain", "max_num_seqs": 4,
        "max_model_len": 64, "max_num_batched_tokens": 99, "chunked_prefill": True, "static_batch_timeout_s": 0.2,
        "enable_prefix_caching": False, "block_size": 8, "num_blocks": 7, "num_threads": 2, "torch_version": "2",
        "architecture": "Tiny", "quantization": "int8", "smooth_int8": True, "batch_invariant": False,
        "weight_bytes": 1, "stored_weight_bytes": 2, "weight_layouts": "linear, int8 1", "kv_cache_allocated_bytes": 1,
        "num_slots": 4,
    }  # fmt: skip


def test_a_start_that_fails_closes_the_process(model_dir):
    class NeverReady(FakeProcess):
        async def start(self):
            raise StartFailed("no memory", likely_cause="a large model")

    async def main():
        process = NeverReady(says(1))
        with pytest.raises(StartFailed, match="no memory"):
            await new_backend(model_dir, process).start()
        assert process.is_closed

    asyncio.run(main())


def test_closing_ends_a_start_that_still_reads_its_tokenizer_and_makes_no_process(model_dir, monkeypatch):
    async def main():
        process = FakeProcess(says(1))
        inner = new_backend(model_dir, process).inner
        starting = asyncio.create_task(inner.start())
        await asyncio.sleep(0)
        await inner.aclose()
        with pytest.raises(NotStarted, match="closed"):
            await starting
        assert process.config is None

    asyncio.run(main())


def test_closing_ends_requests_that_wait_for_the_tokenizer_with_an_error_of_their_own(model_dir, monkeypatch):
    may_go_on = threading.Event()

    def blocked(prompt, tokenizer):
        assert may_go_on.wait(20)
        return [1]

    async def main():
        async with started(model_dir, says(1)) as (backend, _):
            monkeypatch.setattr("enginebay.backends.reference.backend.prompt_token_ids", blocked)
            long = request("a" * 5000)
            waiting = [asyncio.create_task(collect(backend, long)) for _ in range(6)]
            late = backend.generate(long)
            await asyncio.sleep(0)
            await backend.aclose()
            may_go_on.set()
            waiting.append(asyncio.ensure_future(anext(late)))
            results = await asyncio.gather(*waiting, return_exceptions=True)
            num_at_work = 2  # each in a thread of its own: no closing takes that away
            assert {type(result) for result in results[num_at_work:]} == {NotStarted}

    asyncio.run(main())


def test_the_environment_of_the_entry_is_handed_to_the_engine(model_dir):
    async def main():
        async with started(model_dir, says(1), environment={"OMP_NUM_THREADS": "7"}) as (_, process):
            assert process.environment == {"OMP_NUM_THREADS": "7"}

    asyncio.run(main())


def test_before_start_it_is_loading_and_refuses_requests(model_dir):
    async def main():
        inner = new_backend(model_dir, FakeProcess(says(1))).inner
        assert (await inner.health()).state is HealthState.LOADING
        with pytest.raises(NotStarted):
            inner.generate(request())
        await inner.aclose()

    asyncio.run(main())


def test_the_statistics_of_a_dead_engine_are_none(model_dir):
    async def main():
        async with started(model_dir, says(*ids("the fox"))) as (backend, process):
            exporter = instrument(backend)
            assert b"enginebay_engine_stats_up" in (up := await exporter.metrics_text())
            assert b"} 1.0" in next(line for line in up.splitlines() if line.startswith(b"enginebay_engine_stats_up{"))
            process.health_now = Health(HealthState.DEAD, "the engine's process was killed by SIGKILL")
            with pytest.raises(EngineDied, match="SIGKILL"):
                await backend.stats()
            text = await exporter.metrics_text()
            assert b"} 0.0" in next(
                line for line in text.splitlines() if line.startswith(b"enginebay_engine_stats_up{")
            )

    asyncio.run(main())


def test_an_output_that_does_not_fit_behind_its_prompt_names_max_tokens(model_dir):
    async def main():
        async with started(model_dir, says(*ids("the fox"))) as (backend, _):
            for max_tokens, field in ((64, "max_tokens"), (10**6, "max_tokens")):
                with pytest.raises(ContextTooLong) as caught:
                    await collect(backend, request("hello", max_tokens=max_tokens))
                assert caught.value.field == field
            with pytest.raises(ContextTooLong) as caught:
                await collect(backend, request("hello " * 80, max_tokens=1))
            assert caught.value.field == "prompt"

    asyncio.run(main())


def test_the_statistics_count_what_was_delivered(model_dir):
    async def main():
        async with started(model_dir, says(*ids("the fox"))) as (backend, _):
            num_tokens = len(ids("the fox"))
            await collect(backend, request("hello"))
            await collect(backend, request("hello", delivery="final"))
            stats = await backend.stats()
            assert stats.requests_total_by_finish_reason == {"length": 2}
            assert stats.generation_tokens_total == 2 * num_tokens
            assert stats.prompt_tokens_total == 2 * len(ids("hello"))
            assert stats.ttft_seconds.count == stats.e2e_seconds.count == 2
            assert stats.inter_token_seconds.count == 2 * (num_tokens - 1)
            assert stats.inter_token_seconds.sum == pytest.approx(2 * (num_tokens - 1))
            assert stats.kv_cache_usage_ratio == 0.6
            assert stats.gpu_memory_bytes is None
            assert stats.extra["enginebay_engine_steps_total"] == 7

    asyncio.run(main())


def test_the_time_in_the_queue_is_observed_once_for_each_request(model_dir):
    def script(asked):
        for index in range(3):
            yield EngineOutput(
                request_id=asked.request_id,
                token_ids=[7],
                finish_reason="length" if index == 2 else None,
                queue_s=0.03 if index == 0 else None,
            )

    async def main():
        async with started(model_dir, script) as (backend, _):
            await collect(backend, request())
            queued = (await backend.stats()).queue_seconds
            assert (queued.count, queued.sum) == (1, 0.03)

    asyncio.run(main())


def test_count_tokens_gives_the_ids_that_the_engine_would_see(model_dir):
    async def main():
        async with started(model_dir, says(1)) as (backend, _):
            assert await backend.count_tokens(Text("the fox")) == tuple(ids("the fox"))
            assert await backend.count_tokens(TokenIds((1, 2))) == (1, 2)
            assert await backend.count_tokens(Chat((Message("user", "hello"),))) == tuple(ids("hello"))

    asyncio.run(main())
