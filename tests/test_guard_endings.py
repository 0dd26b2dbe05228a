"""Streams that end early: cancelled, closed, or cleaned up by an adapter that waits."""

import asyncio

import anyio
import pytest

from enginebay.errors import (
    StreamContractViolated,
)
from enginebay.guard import GuardedBackend
from guard_fakes import (
    Scripted,
    chunk,
    consume,
    last_chunk,
    never,
    one_then_never,
    request,
    run,
    two_chunks,
    waiting,
    with_stream,
)

# ---------------------------------------------------------------- ending early


def test_a_stream_that_is_never_started_has_nothing_to_clean_up():
    async def dropped(stream, inner):
        assert inner.num_slots_taken == 0

    async def closed(stream, inner):
        await stream.aclose()
        assert inner.num_slots_taken == 0
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    with_stream(two_chunks, dropped)
    with_stream(two_chunks, closed)


def test_a_task_cancelled_before_it_ever_ran_takes_no_slot():
    async def work(stream, inner):
        task = asyncio.create_task(consume(stream))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert inner.num_slots_taken == 0

    with_stream(two_chunks, work)


@pytest.mark.parametrize("stream", [never, one_then_never], ids=["before_the_first_chunk", "in_the_middle"])
def test_cancelling_the_consumer_frees_the_slot_at_once(stream):
    async def work(guarded, inner):
        task = asyncio.create_task(consume(guarded))
        await waiting(task)
        assert inner.num_slots_held == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert inner.num_slots_held == 0

    with_stream(stream, work)


@pytest.mark.parametrize("stream", [never, one_then_never], ids=["before_the_first_chunk", "in_the_middle"])
def test_an_anyio_scope_that_ends_frees_the_slot_at_once(stream):
    async def work(guarded, inner):
        with anyio.move_on_after(0.01) as scope:
            await consume(guarded)
        assert scope.cancelled_caught
        assert inner.num_slots_held == 0

    with_stream(stream, work)


def test_an_anyio_scope_already_cancelled_frees_the_slot_of_a_started_stream():
    async def work(guarded, inner):
        await anext(guarded)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await consume(guarded)
        assert scope.cancelled_caught
        await guarded.aclose()
        assert inner.num_slots_held == 0

    with_stream(one_then_never, work)


def test_the_consumer_may_close_between_chunks_as_often_as_it_likes():
    async def work(guarded, inner):
        await anext(guarded)
        await guarded.aclose()
        assert inner.num_slots_held == 0
        await guarded.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(guarded)

    with_stream(one_then_never, work)


def test_closing_while_the_consumer_waits_is_reported_and_harms_nothing():
    async def work(guarded, inner):
        task = asyncio.create_task(consume(guarded))
        await waiting(task)
        with pytest.raises(StreamContractViolated, match="cancel the consumer's task"):
            await guarded.aclose()
        assert inner.num_slots_held == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_stream(never, work)


def test_a_second_consumer_is_reported_and_the_first_goes_on():
    async def work(guarded, inner):
        task = asyncio.create_task(consume(guarded))
        await waiting(task)
        with pytest.raises(StreamContractViolated, match="one consumer"):
            await anext(guarded)
        await waiting(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with_stream(never, work)


def test_throwing_into_a_stream_closes_it_and_raises():
    async def work(guarded, inner):
        await anext(guarded)
        with pytest.raises(KeyError):
            await guarded.athrow(KeyError("k"))
        assert inner.num_slots_held == 0

    with_stream(one_then_never, work)


# ---------------------------------------------------------------- clean-up that waits


async def waits_in_finally(inner):
    with inner.slot():
        try:
            yield chunk()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)


def test_a_clean_up_that_waits_is_cut_off_and_reported_and_the_task_stays_cancelled(caplog):
    async def work(guarded, inner):
        task = asyncio.create_task(consume(guarded))
        await waiting(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as cancelled:
            await task
        assert task.cancelled()
        assert "clean-up" in cancelled.value.__notes__[0]

    with_stream(waits_in_finally, work)
    assert "clean-up" in caplog.text


def test_an_anyio_scope_ends_though_the_clean_up_of_an_adapter_waits(caplog):
    async def work(guarded, inner):
        with anyio.move_on_after(0.01) as scope:
            await consume(guarded)
        assert scope.cancelled_caught

    with_stream(waits_in_finally, work)
    assert "clean-up" in caplog.text


def test_a_clean_up_that_waits_is_reported_when_the_stream_is_closed():
    async def work(guarded, inner):
        await anext(guarded)
        with pytest.raises(StreamContractViolated, match="clean-up"):
            await guarded.aclose()

    with_stream(waits_in_finally, work)


async def retries(inner):
    with inner.slot():
        try:
            async with asyncio.timeout(0.001):
                await asyncio.Event().wait()
        except TimeoutError:
            await asyncio.sleep(0)
        yield last_chunk()


def test_a_time_out_inside_the_adapter_is_no_cancellation_of_the_consumer():
    async def work(guarded, inner):
        assert len(await consume(guarded)) == 1

    with_stream(retries, work)


def test_an_adapter_may_time_out_in_a_task_that_survived_a_cancellation():
    async def work(guarded, inner):
        async def survivor():
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                return await consume(guarded)  # goes on without uncancel(), as much code does

        task = asyncio.create_task(survivor())
        await waiting(task)
        task.cancel()
        assert len(await task) == 1

    with_stream(retries, work)


# ---------------------------------------------------------------- life


def test_two_hundred_random_endings_leave_no_slot_and_no_task_behind():
    async def main():
        inner = Scripted(one_then_never)
        async with GuardedBackend(inner) as backend:
            tasks = [asyncio.create_task(consume(backend.generate(request()))) for _ in range(200)]
            for number, task in enumerate(tasks):
                if number % 3 == 0:
                    await asyncio.sleep(0)
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(result, asyncio.CancelledError) for result in results)
            assert inner.num_slots_held == 0

    run(main)
