"""Start and close, whatever happens meanwhile."""

import asyncio

import anyio
import pytest

from enginebay.errors import (
    BackendError,
    NotStarted,
    StartFailed,
)
from enginebay.guard import GuardedBackend
from enginebay.types import (
    Feature,
    HealthState,
    Text,
)
from guard_fakes import (
    FEATURES,
    Scripted,
    request,
    run,
    two_chunks,
    waiting,
)


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
