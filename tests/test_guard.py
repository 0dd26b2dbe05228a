import asyncio
import gc
from contextlib import contextmanager

import anyio
import pytest

from enginebay.errors import (
    BackendError,
    EngineDied,
    InvalidRequest,
    NotStarted,
    StartFailed,
    StreamContractViolated,
    UnsupportedFeature,
)
from enginebay.guard import GuardedBackend
from enginebay.types import (
    BackendInfo,
    Capabilities,
    EngineStats,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    SamplingParams,
    Text,
    Usage,
)

FEATURES = frozenset({Feature.TEXT_PROMPT, Feature.SEED})


def chunk(text="x"):
    return GenerationChunk(text=text, num_tokens=1, received_at=0.0)


def last_chunk(*, usage=Usage(1, 1)):  # noqa: B008 - frozen
    return GenerationChunk(received_at=0.0, finish_reason=FinishReason.STOP, usage=usage)


class Scripted:
    """A backend whose streams are written by the test; it counts the slots that its streams hold."""

    def __init__(self, stream=None, *, start=None, close=None, features=FEATURES):
        self.info = BackendInfo(
            kind="scripted", name="scripted", model="m", capabilities=Capabilities(features=features)
        )
        self.num_slots_held = 0
        self.num_slots_taken = 0
        self.num_closes = 0
        self._stream, self._start, self._close = stream, start, close

    async def start(self):
        if self._start is not None:
            await self._start()

    def generate(self, request):
        return self._stream(self)

    @contextmanager
    def slot(self):
        self.num_slots_held += 1
        self.num_slots_taken += 1
        try:
            yield
        finally:
            self.num_slots_held -= 1

    async def health(self):
        return Health(HealthState.READY)

    async def stats(self):
        return EngineStats()

    async def aclose(self):
        self.num_closes += 1
        if self._close is not None:
            await self._close()


def request(**sampling):
    return GenerationRequest(request_id="1", prompt=Text("p"), sampling=SamplingParams(max_tokens=4, **sampling))


async def two_chunks(inner):
    with inner.slot():
        yield chunk("a")
        yield chunk("b")
        yield last_chunk()


async def never(inner):
    with inner.slot():
        await asyncio.Event().wait()
        yield chunk()


async def one_then_never(inner):
    with inner.slot():
        yield chunk()
        await asyncio.Event().wait()


def run(work):
    """Run on a loop of its own, and demand that nothing is left on it."""

    async def main():
        loop = asyncio.get_running_loop()
        problems = []
        loop.set_exception_handler(lambda _, context: problems.append(context))
        await work()
        gc.collect()
        await asyncio.sleep(0)
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
        assert problems == []

    asyncio.run(main())


def with_stream(stream, work):
    """Give `work` a fresh stream of a started backend; afterwards no slot may be held."""

    async def main():
        inner = Scripted(stream)
        async with GuardedBackend(inner) as backend:
            await work(backend.generate(request()), inner)
        assert inner.num_slots_held == 0
        assert inner.num_closes == 1

    run(main)


async def waiting(task):
    """Until this task waits for something that won't come."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()


# ---------------------------------------------------------------- a whole stream


def test_a_stream_is_passed_on_as_it_is():
    async def work(stream, inner):
        assert [item.text async for item in stream] == ["a", "b", ""]
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    with_stream(two_chunks, work)


def violation(stream, match):
    async def work(guarded, inner):
        with pytest.raises(StreamContractViolated, match=match):
            async for _ in guarded:
                pass
        assert inner.num_slots_held == 0, "the guard closes what it gives up on"
        with pytest.raises(StopAsyncIteration):
            await anext(guarded)
        await guarded.aclose()

    with_stream(stream, work)


def test_a_stream_without_a_last_chunk_is_reported():
    async def no_last(inner):
        yield chunk()

    async def nothing(inner):
        return
        yield

    violation(no_last, "without a last chunk")
    violation(nothing, "without a last chunk")


def test_a_chunk_after_the_last_is_reported():
    async def goes_on(inner):
        with inner.slot():
            yield last_chunk()
            yield chunk()

    violation(goes_on, "after the last")


def test_a_last_chunk_without_usage_is_reported():
    async def no_usage(inner):
        with inner.slot():
            yield last_chunk(usage=None)

    violation(no_usage, "without usage")


def test_an_error_of_the_tree_passes_and_a_foreign_one_is_wrapped_with_its_cause():
    async def dies(inner):
        yield chunk()
        raise EngineDied("gone")

    async def fails(inner):
        yield chunk()
        raise ZeroDivisionError("one")

    async def work(stream, inner):
        await anext(stream)
        with pytest.raises(EngineDied, match="gone"):
            await anext(stream)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    async def work_foreign(stream, inner):
        await anext(stream)
        with pytest.raises(BackendError, match="ZeroDivisionError") as caught:
            await anext(stream)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        assert caught.value.backend == "scripted"

    with_stream(dies, work)
    with_stream(fails, work_foreign)


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


async def consume(stream):
    return [item async for item in stream]


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


# ---------------------------------------------------------------- requests


def test_a_request_is_checked_before_the_backend_sees_it():
    async def main():
        inner = Scripted(two_chunks)
        async with GuardedBackend(inner) as backend:
            with pytest.raises(UnsupportedFeature) as caught:
                backend.generate(request(top_k=3))
            assert caught.value.field == "top_k"
            with pytest.raises(InvalidRequest) as caught:
                backend.generate(request(temperature=float("nan")))
            assert caught.value.field == "temperature"
        assert inner.num_slots_taken == 0

    run(main)


def test_what_is_optional_and_absent_is_an_unsupported_feature():
    async def main():
        async with GuardedBackend(Scripted(features=FEATURES | {Feature.COUNT_TOKENS})) as backend:
            with pytest.raises(UnsupportedFeature, match="count_tokens"):
                await backend.count_tokens(Text("p"))
            with pytest.raises(UnsupportedFeature, match="reset_prefix_cache"):
                await backend.reset_prefix_cache()

    run(main)


# ---------------------------------------------------------------- life


def test_before_start_and_after_close_every_use_is_not_started():
    async def main():
        backend = GuardedBackend(Scripted(two_chunks))
        for state in (HealthState.LOADING, HealthState.DEAD):
            with pytest.raises(NotStarted):
                backend.generate(request())
            with pytest.raises(NotStarted):
                await backend.stats()
            with pytest.raises(NotStarted):
                await backend.count_tokens(Text("p"))
            assert (await backend.health()).state is state
            await backend.aclose()

    run(main)


def test_a_backend_starts_once():
    async def main():
        backend = GuardedBackend(Scripted())
        await backend.start()
        with pytest.raises(BackendError, match="single use"):
            await backend.start()
        await backend.aclose()
        with pytest.raises(BackendError, match="single use"):
            await backend.start()

    run(main)


@pytest.mark.parametrize(
    ("raised", "expected"), [(StartFailed("no memory"), StartFailed), (OSError("no device"), BackendError)]
)
def test_a_start_that_fails_closes_the_backend(raised, expected):
    async def fails():
        raise raised

    async def main():
        inner = Scripted(start=fails)
        with pytest.raises(expected, match="no "):
            async with GuardedBackend(inner):
                raise AssertionError("it did start")
        assert inner.num_closes == 1

    run(main)


def test_a_start_that_is_cancelled_closes_the_backend_to_the_end():
    closed = []

    async def slow_close():
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        closed.append(True)

    async def main():
        with anyio.move_on_after(0.01) as scope:
            await GuardedBackend(Scripted(start=asyncio.Event().wait, close=slow_close)).start()
        assert scope.cancelled_caught
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert closed == [True]

    run(main)


def test_closing_twice_or_at_the_same_time_closes_once_and_both_wait_for_the_end():
    closed = []

    async def slow_close():
        await asyncio.sleep(0.01)
        closed.append(True)

    async def main():
        inner = Scripted(close=slow_close)
        backend = GuardedBackend(inner)
        await backend.start()

        async def close():
            await backend.aclose()
            assert closed == [True]

        await asyncio.gather(close(), close())
        await close()
        assert inner.num_closes == 1

    run(main)


def test_closing_goes_on_when_whoever_closes_is_cancelled():
    closed = []

    async def slow_close():
        await asyncio.sleep(0.01)
        closed.append(True)

    async def main():
        backend = GuardedBackend(Scripted(close=slow_close))
        await backend.start()
        task = asyncio.create_task(backend.aclose())
        await waiting(task)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await backend.aclose()
        assert closed == [True]

    run(main)


def test_a_backend_closed_while_it_starts_does_not_count_as_started():
    async def main():
        may_start = asyncio.Event()
        backend = GuardedBackend(Scripted(start=may_start.wait))
        starting = asyncio.create_task(backend.start())
        await waiting(starting)
        await backend.aclose()
        may_start.set()
        with pytest.raises(NotStarted):
            await starting
        assert (await backend.health()).state is HealthState.DEAD

    run(main)


def test_closing_ends_a_start_in_progress_before_the_inner_backend_is_closed():
    told = []

    async def slow_start():
        try:
            await asyncio.Event().wait()
        finally:
            told.append("the start has ended")

    async def close():
        told.append("closed")

    async def main():
        backend = GuardedBackend(Scripted(start=slow_start, close=close))
        starting = asyncio.create_task(backend.start())
        await waiting(starting)
        await asyncio.sleep(0)
        await backend.aclose()
        assert told == ["the start has ended", "closed"]
        with pytest.raises(NotStarted, match="closed while it was starting"):
            await starting

    run(main)


def test_a_foreign_error_of_any_call_is_wrapped_with_its_cause():
    class Faulty(Scripted):
        def generate(self, request):
            raise ValueError("a fault")

        async def health(self):
            raise ValueError("a fault")

        async def count_tokens(self, prompt):
            raise ValueError("a fault")

        stats = reset_prefix_cache = aclose = health

    async def main():
        features = FEATURES | {Feature.COUNT_TOKENS, Feature.RESET_PREFIX_CACHE}
        backend = GuardedBackend(Faulty(features=features))
        await backend.start()
        with pytest.raises(BackendError, match="generate failed") as failed:
            backend.generate(request())
        assert isinstance(failed.value.__cause__, ValueError)
        with pytest.raises(BackendError, match="count_tokens failed"):
            await backend.count_tokens(Text("p"))
        for call in ("health", "stats", "reset_prefix_cache", "aclose"):
            with pytest.raises(BackendError, match=f"{call} failed") as failed:
                await getattr(backend, call)()
            assert isinstance(failed.value.__cause__, ValueError)

    run(main)


def test_a_start_that_fails_is_told_though_closing_fails_too():
    async def fails():
        raise StartFailed("no memory")

    async def fails_too():
        raise OSError("no device")

    async def main():
        with pytest.raises(StartFailed, match="no memory") as failed:
            await GuardedBackend(Scripted(start=fails, close=fails_too)).start()
        assert "no device" in failed.value.__notes__[0]

    run(main)


async def none_for_a_chunk(inner):
    with inner.slot():
        yield None


def test_something_else_than_a_chunk_is_reported():
    async def work(guarded, inner):
        with pytest.raises(StreamContractViolated, match="sent a NoneType, which is no GenerationChunk"):
            await consume(guarded)
        assert inner.num_slots_held == 0

    with_stream(none_for_a_chunk, work)


def test_something_else_than_a_stream_is_reported():
    async def main():
        async with GuardedBackend(Scripted(lambda inner: [chunk()])) as backend:
            with pytest.raises(StreamContractViolated, match="generate\\(\\) returned list"):
                backend.generate(request())

    run(main)


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
