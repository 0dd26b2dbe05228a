"""What a guarded backend passes on, and what it refuses."""

import pytest

from enginebay.errors import (
    BackendError,
    EngineDied,
    InvalidRequest,
    StreamContractViolated,
    UnsupportedFeature,
)
from enginebay.guard import GuardedBackend
from enginebay.types import (
    Feature,
    Text,
)
from guard_fakes import FEATURES, Scripted, chunk, consume, last_chunk, request, run, two_chunks, with_stream

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
