"""A stream goes on in another replica, from the tokens that its client has."""

import asyncio
from dataclasses import replace

import pytest
from pool_of_fakes import a_call, a_pool, a_request, broken_after, going_on, settled, stalled_after, text_of

from enginebay.errors import BackendUnavailable, EngineDied
from enginebay.gateway.pool.pool import PoolBounds
from enginebay.gateway.pool.timeouts import Timeouts
from enginebay.testing import FakeClock
from enginebay.types import Capabilities, Feature, GenerationChunk

DIED = EngineDied("killed")
INVARIANT = {"batch_invariant": True}


def test_the_client_gets_every_token_once_one_prompt_and_the_usage_of_the_whole():
    async def main():
        fake = await a_pool(broken_after(2, DIED), going_on)
        call = a_call(a_request(max_tokens=6))
        chunks = await fake.ask(a_request(max_tokens=6), call)
        assert [chunk.token_ids for chunk in chunks] == [(n,) for n in range(6)]
        assert text_of(chunks) == " t0 t1 t2 t3 t4 t5"
        assert sum(chunk.prompt is not None for chunk in chunks) == 1
        assert chunks[-1].usage.num_output_tokens == 6
        assert chunks[-1].usage.num_prompt_tokens == 3
        assert fake.fakes[1].requests[0].resume_token_ids == (0, 1)
        assert [attempt.num_tokens for attempt in call.attempts] == [2, 4]
        assert (fake.pool.attempts.num_failovers, fake.pool.attempts.num_retries) == (1, 0)
        fake.demand_nothing_left()

    asyncio.run(main())


def test_it_goes_on_twice_where_that_is_needed():
    async def main():
        fake = await a_pool(broken_after(2, DIED), broken_after(1, DIED), going_on)
        chunks = await fake.ask(a_request(max_tokens=6))
        assert [chunk.token_ids for chunk in chunks] == [(n,) for n in range(6)]
        assert [each.requests[0].resume_token_ids for each in fake.fakes] == [(), (0, 1), (0, 1, 2)]
        assert chunks[-1].usage.num_output_tokens == 6
        fake.demand_nothing_left()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("settings", "temperature", "label"),
    [
        ([INVARIANT, INVARIANT], 0.0, "exact"),
        ([INVARIANT, INVARIANT], 1.0, "exact"),
        ([INVARIANT, {}], 0.0, "approximate"),
        ([], 0.0, "approximate"),
    ],
)
def test_the_attempt_says_whether_the_rest_is_what_the_first_replica_would_have_said(settings, temperature, label):
    async def main():
        fake = await a_pool(broken_after(2, DIED), going_on, settings=settings)
        request = a_request(temperature=temperature)
        call = a_call(request)
        await fake.ask(request, call)
        assert [attempt.resumed for attempt in call.attempts] == [None, label]

    asyncio.run(main())


def test_a_request_without_a_seed_goes_on_with_the_noise_that_it_began_with():
    async def main():
        fake = await a_pool(broken_after(2, DIED), going_on)
        await fake.ask(a_request(temperature=1.0))
        first, second = (each.requests[0].sampling.seed for each in fake.fakes)
        assert first is not None
        assert first == second

    asyncio.run(main())


def test_where_it_cannot_go_on_the_error_is_told_and_nothing_is_said_twice():
    async def main():
        capabilities = Capabilities(features=frozenset(Feature) - {Feature.RESUME})
        fake = await a_pool(broken_after(2, DIED), going_on, capabilities=capabilities)
        with pytest.raises(EngineDied):
            await fake.ask(a_request())
        assert fake.fakes[1].requests == []
        fake.demand_nothing_left()

    asyncio.run(main())


def test_text_without_its_tokens_cannot_be_handed_over():
    async def main():
        said = GenerationChunk(text="hello", received_at=0.0)
        fake = await a_pool(lambda request: [said, DIED], going_on)
        with pytest.raises(EngineDied):
            await fake.ask(a_request())
        assert fake.fakes[1].requests == []

    asyncio.run(main())


def endless(request):
    """Every token, and no end."""
    return [*(replace(chunk, finish_reason=None, usage=None) for chunk in going_on(request)), DIED]


def test_an_answer_that_lacks_only_its_end_is_not_asked_for_again():
    async def main():
        fake = await a_pool(
            lambda request: [*[replace(c, finish_reason=None, usage=None) for c in going_on(request)], DIED], going_on
        )
        with pytest.raises(EngineDied):
            await fake.ask(a_request())
        assert fake.fakes[1].requests == []

    asyncio.run(main())


def test_a_replica_that_falls_silent_in_the_middle_is_left_for_another():
    async def main():
        clock = FakeClock()
        bounds = PoolBounds(timeouts=Timeouts(between_tokens_s=1.0))
        fake = await a_pool(stalled_after(2), going_on, clock=clock, bounds=bounds)
        assert text_of(await clock.run(fake.ask(a_request()))) == " t0 t1 t2 t3"
        fake.demand_nothing_left()

    asyncio.run(main())


def test_what_waits_for_a_replica_that_is_found_dead_goes_on_at_once():
    async def main():
        fake = await a_pool(stalled_after(2), going_on)
        asking = asyncio.create_task(fake.ask(a_request()))
        await settled()
        fake.replicas[0].abandon_all(BackendUnavailable("stuck"))
        assert text_of(await asking) == " t0 t1 t2 t3"
        fake.demand_nothing_left()

    asyncio.run(main())
