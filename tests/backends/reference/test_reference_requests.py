"""What a request becomes for the engine, and which are refused before it."""

import asyncio
import random
import threading

import pytest
from fake_process import FakeReady, says
from scripted_reference import chunks_of, collect, ids, request, started

from enginebay.clock import MonotonicClock
from enginebay.engine.request import EngineOutput
from enginebay.errors import (
    ContextTooLong,
    DeadlineExceeded,
    EngineDied,
    EngineStepFailed,
    InvalidRequest,
    UnsupportedFeature,
)
from enginebay.types import (
    Chat,
    Message,
    TokenIds,
)

# ---------------------------------------------------------------- refused


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


async def refusal_at_call(backend, asked, error):
    with pytest.raises(error) as caught:
        backend.generate(asked)
    return caught.value


# ---------------------------------------------------------------- seeds, event loop, cancellation, errors


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


# ---------------------------------------------------------------- deadlines


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
