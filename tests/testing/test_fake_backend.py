from __future__ import annotations

import asyncio

import pytest

from enginebay.backend import Backend, CountsTokens, ResetsPrefixCache
from enginebay.errors import EngineDied, StartFailed
from enginebay.guard import GuardedBackend
from enginebay.testing import FakeBackend, FakeClock, Pause, Stall, say_tokens
from enginebay.types import FinishReason, GenerationRequest, HealthState, SamplingParams, Text, Usage


def run(main):
    asyncio.run(asyncio.wait_for(main(), 20))


def request(max_tokens=3) -> GenerationRequest:
    return GenerationRequest(request_id="r", prompt=Text("one two"), sampling=SamplingParams(max_tokens=max_tokens))


def test_it_is_a_backend_and_says_that_it_is_simulated():
    backend = FakeBackend()
    assert isinstance(backend, Backend)
    assert isinstance(backend, CountsTokens)
    assert isinstance(backend, ResetsPrefixCache)
    assert backend.info.simulated


def test_it_says_max_tokens_tokens_at_the_scripted_instants():
    clock = FakeClock()

    def script(wanted):
        return say_tokens(wanted, first_token_after_s=1.0, token_gap_s=0.5)

    async def main():
        async with GuardedBackend(FakeBackend(script=script, clock=clock)) as backend:

            async def consume():
                return [chunk async for chunk in backend.generate(request())]

            chunks = await clock.run(consume())
            assert [(chunk.text, chunk.received_at) for chunk in chunks] == [(" t0", 1.0), (" t1", 1.5), (" t2", 2.0)]
            assert chunks[-1].finish_reason is FinishReason.LENGTH
            assert chunks[-1].usage == Usage(2, 3)

    run(main)


@pytest.mark.parametrize(("num_tokens", "max_tokens", "reason"), [(2, 5, "stop"), (5, 5, "length"), (9, 5, "length")])
def test_it_never_says_more_than_was_asked_for(num_tokens, max_tokens, reason):
    fake = FakeBackend(script=lambda wanted: say_tokens(wanted, num_tokens=num_tokens, tokens_per_chunk=2))

    async def main():
        async with GuardedBackend(fake) as backend:
            chunks = [chunk async for chunk in backend.generate(request(max_tokens))]
            assert sum(chunk.num_tokens for chunk in chunks) == min(num_tokens, max_tokens)
            assert chunks[-1].finish_reason == reason

    run(main)


def test_it_fails_where_the_script_says_so_and_counts_what_lives():
    fake = FakeBackend(script=lambda wanted: [*say_tokens(wanted)[:2], EngineDied("gone")])

    async def main():
        async with GuardedBackend(fake) as backend:
            stream = backend.generate(request())
            assert fake.num_live_streams == 0
            await anext(stream)
            assert fake.num_live_streams == 1
            with pytest.raises(EngineDied, match="gone"):
                await anext(stream)
            assert (fake.num_live_streams, fake.num_finished, fake.num_cancelled) == (0, 0, 0)

    run(main)


def test_a_stall_lasts_until_the_consumer_is_cancelled():
    fake = FakeBackend(script=lambda _: [Pause(0.0), Stall()])

    async def main():
        async with GuardedBackend(fake) as backend:
            task = asyncio.create_task(anext(backend.generate(request())))
            await asyncio.sleep(0.01)
            assert fake.num_live_streams == 1
            task.cancel()
            await asyncio.wait([task])
            assert (fake.num_live_streams, fake.num_cancelled) == (0, 1)

    run(main)


def test_its_start_can_take_time_and_fail():
    clock = FakeClock()
    fake = FakeBackend(clock=clock, start_takes_s=30.0, start_error=StartFailed("no memory"))

    async def main():
        assert (await fake.health()).state is HealthState.LOADING
        with pytest.raises(StartFailed, match="no memory"):
            await clock.run(fake.start())
        assert clock.now() == 30.0

    run(main)
