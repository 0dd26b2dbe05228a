"""Whose fault it is that a request took too long, and who may be answered by another model."""

import asyncio
from contextlib import aclosing

import pytest
from pool_of_fakes import a_call, a_pool, a_request, broken_after, going_on, stalled_after, text_of, token

from enginebay.errors import BackendTimeout, EngineBayError, EngineDied, EngineStepFailed, UpstreamError
from enginebay.gateway.call import Client
from enginebay.gateway.pool.breaker import BreakerBounds
from enginebay.gateway.pool.pool import PoolBounds
from enginebay.gateway.pool.timeouts import Timeouts
from enginebay.testing import FakeClock, Pause

WHOLE = " t0 t1 t2 t3"
LIMITS = Timeouts(first_token_s=2.0, between_tokens_s=1.0, total_s=20.0)


@pytest.mark.parametrize("delivery", ["stream", "final"])
def test_a_request_that_is_longer_than_its_time_opens_no_breaker(delivery):
    """Else a few clients that ask for long answers would take a sound replica from all others."""

    def endless(request):
        return [step for _ in range(100) for step in (Pause(0.9), token(0))]

    async def main():
        clock = FakeClock()
        bounds = PoolBounds(max_attempts=1, timeouts=LIMITS)
        breaker = BreakerBounds(num_failures=1)
        fake = await a_pool(endless, clock=clock, bounds=bounds, breaker=breaker)
        for _ in range(3):
            with pytest.raises(BackendTimeout, match="was not through within 20 s"):
                await clock.run(fake.ask(a_request(max_tokens=100, delivery=delivery)))
        assert fake.replicas[0].breaker.state == "closed"
        fake.demand_nothing_left()

    asyncio.run(main())


def test_a_reader_that_takes_the_whole_time_opens_no_breaker():
    async def main():
        clock = FakeClock()
        bounds = PoolBounds(max_attempts=1, timeouts=LIMITS)
        fake = await a_pool(stalled_after(2), clock=clock, bounds=bounds, breaker=BreakerBounds(num_failures=1))

        async def read_slowly():
            async with aclosing(fake.pool.stream(a_call(a_request()), a_request())) as chunks:
                async for _ in chunks:
                    await clock.sleep_until(clock.now() + LIMITS.total_s)

        with pytest.raises(BackendTimeout):
            await clock.run(read_slowly())
        assert fake.replicas[0].breaker.state == "closed"
        fake.demand_nothing_left()

    asyncio.run(main())


@pytest.mark.parametrize(("models", "is_answered"), [(None, True), ({"m", "spare"}, True), ({"m"}, False)])
def test_a_key_is_answered_by_no_model_that_it_could_not_ask_for(models, is_answered):
    async def main():
        spare = await a_pool(going_on)
        pools = {"spare": spare.pool}

        def fallbacks(client):
            allowed = None if client is None else client.models
            return [pool for name, pool in pools.items() if allowed is None or name in allowed]

        fake = await a_pool(broken_after(0, EngineDied("died")), fallbacks=fallbacks, bounds=PoolBounds(max_attempts=1))
        call = a_call(a_request())
        call.client = Client(address="", models=None if models is None else frozenset(models))
        if is_answered:
            assert text_of(await fake.ask(a_request(), call)) == WHOLE
        else:
            with pytest.raises(EngineDied):
                await fake.ask(a_request(), call)
        assert len(spare.fakes[0].requests) == is_answered

    asyncio.run(main())


# ---------------------------------------------------------------- requests at which every engine fails

STRICT = BreakerBounds(num_failures=3)
NO_LIMIT = PoolBounds(retry_ratio=1.0, min_retries_per_s=1000.0)


def poisoned(error):
    """Fails at requests that say poison, and at no other."""
    return lambda request: [error] if "poison" in request.prompt.text else going_on(request)


async def outcomes(fake, clock, *prompts):
    """What became of each: None is an answer."""
    found = []
    for prompt in prompts:
        try:
            await clock.run(fake.ask(a_request(prompt)))
            found.append(None)
        except EngineBayError as error:
            found.append(type(error))
    return found


@pytest.mark.parametrize("error", [EngineStepFailed("nan"), UpstreamError("boom", status=500)])
def test_one_clients_requests_at_which_every_engine_fails_take_no_replica_from_the_others(error):
    async def main():
        clock = FakeClock()
        fake = await a_pool(*[poisoned(error)] * 3, clock=clock, breaker=STRICT, bounds=NO_LIMIT)
        assert await outcomes(fake, clock, *["poison"] * 20) == [type(error)] * 20
        assert [replica.breaker.state for replica in fake.replicas] == ["closed"] * 3
        assert await outcomes(fake, clock, "hello") == [None]
        fake.demand_nothing_left()

    asyncio.run(main())


def test_an_engine_that_fails_where_others_do_not_is_left_alone():
    async def main():
        clock = FakeClock()
        fake = await a_pool(poisoned(EngineStepFailed("nan")), going_on, clock=clock, breaker=STRICT, bounds=NO_LIMIT)
        assert await outcomes(fake, clock, *["poison"] * 10) == [None] * 10
        assert [replica.breaker.state for replica in fake.replicas] == ["open", "closed"]
        fake.demand_nothing_left()

    asyncio.run(main())


def test_faults_of_transport_are_each_replicas_own():
    async def main():
        clock = FakeClock()
        fake = await a_pool(*[poisoned(EngineDied("gone"))] * 2, clock=clock, breaker=STRICT, bounds=NO_LIMIT)
        await outcomes(fake, clock, *["poison"] * 4)
        assert [replica.breaker.state for replica in fake.replicas] == ["open", "open"]
        fake.demand_nothing_left()

    asyncio.run(main())


def test_a_request_that_the_only_engine_fails_at_counts_once_however_often_it_is_tried():
    async def main():
        clock = FakeClock()
        fake = await a_pool(poisoned(EngineStepFailed("nan")), clock=clock, breaker=STRICT, bounds=NO_LIMIT)
        await outcomes(fake, clock, "poison", "poison")
        assert len(fake.fakes[0].requests) == 6
        assert fake.replicas[0].breaker.state == "closed"
        await outcomes(fake, clock, "poison")
        assert fake.replicas[0].breaker.state == "open"
        fake.demand_nothing_left()

    asyncio.run(main())
