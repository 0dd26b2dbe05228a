"""Whatever engines and clients do, nothing is counted afterwards that is not there."""

import asyncio
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st
from pool_of_fakes import a_pool, a_request, going_on, settled, tasks_but_this

from enginebay.errors import (
    BackendOverloaded,
    BackendUnavailable,
    EngineBayError,
    EngineDied,
    InvalidRequest,
    ShuttingDown,
    UpstreamError,
)
from enginebay.gateway.pool.admission import AdmissionBounds
from enginebay.gateway.pool.breaker import BreakerBounds
from enginebay.gateway.pool.pool import PoolBounds
from enginebay.gateway.pool.timeouts import Timeouts
from enginebay.testing import FakeClock, Pause, Stall

ENDS = st.sampled_from(
    [
        None,
        Stall(),
        Pause(100.0),
        EngineDied("died"),
        BackendUnavailable("cut"),
        BackendOverloaded("full", retry_after_s=0.5),
        ShuttingDown("ends"),
        UpstreamError("418", status=418),
        InvalidRequest("refused"),
        ValueError("malformed"),
    ]
)
ANSWERS = st.tuples(st.integers(0, 4), st.sampled_from([0.0, 0.5, 1.0]), ENDS)
"""Tokens before it goes wrong, the pause before each, and how it does."""
REQUESTS = st.tuples(
    st.sampled_from([0.0, 0.5, 1.5]),  # comes then
    st.one_of(st.none(), st.sampled_from([0.0, 0.5, 1.0, 2.5])),  # and leaves so long after
    st.integers(-1, 1),  # priority
    st.sampled_from(["stream", "final"]),
)
BOUNDS = PoolBounds(
    max_attempts=3,
    max_in_flight=2,
    timeouts=Timeouts(first_token_s=2.0, between_tokens_s=1.0, total_s=8.0),
    admission=AdmissionBounds(max_queued=3, max_wait_s=4.0),
)


def script_of(answers):
    """One answer after another, from the first again."""
    left = []

    def script(request):
        if not left:
            left.extend(answers)
        num_tokens, pause_s, end = left.pop(0)
        chunks = going_on(request)
        said = [step for chunk in chunks[:num_tokens] for step in (Pause(pause_s), chunk)]
        if end is None:
            return [*said, *chunks[num_tokens:]]
        return [*(replace(c, finish_reason=None) if not isinstance(c, Pause) else c for c in said), end]

    return script


@settings(max_examples=50, deadline=None)
@given(
    scripts=st.lists(st.lists(ANSWERS, min_size=1, max_size=3), min_size=1, max_size=3),
    requests=st.lists(REQUESTS, min_size=1, max_size=8),
    kills=st.lists(st.tuples(st.sampled_from([0.5, 1.0, 3.0]), st.integers(0, 2)), max_size=3),
)
def test_in_flight_slots_places_and_tasks_are_zero_after_everything(scripts, requests, kills):
    async def main():
        clock = FakeClock()
        breaker = BreakerBounds(num_failures=2, num_outcomes=4, open_s=0.5, max_open_s=1.0)
        fake = await a_pool(
            *map(script_of, scripts), clock=clock, bounds=BOUNDS, breaker=breaker, policy="least_loaded"
        )

        async def client(comes_at, leaves_after_s, priority, delivery):
            await clock.sleep_until(comes_at)
            request = a_request(priority=priority, delivery=delivery)
            asking = asyncio.create_task(fake.ask(request))
            if leaves_after_s is not None:
                await clock.sleep_until(clock.now() + leaves_after_s)
                asking.cancel()
            [ending] = await asyncio.gather(asking, return_exceptions=True)
            assert isinstance(ending, list | EngineBayError | asyncio.CancelledError), repr(ending)
            if isinstance(ending, list):
                assert sum(len(chunk.token_ids) for chunk in ending) == 4

        async def killer(at, index):
            await clock.sleep_until(at)
            fake.replicas[index % len(fake.replicas)].abandon_all(EngineDied("killed"))

        clients = [client(*request) for request in requests]
        await clock.run(asyncio.gather(*clients, *(killer(*kill) for kill in kills)))
        assert clock.now() < 60.0
        fake.demand_nothing_left()
        await settled()
        assert tasks_but_this() == set()
        clock.advance(10.0)
        assert all(replica.breaker.admits() for replica in fake.replicas)  # no trial was left behind

    asyncio.run(main())
