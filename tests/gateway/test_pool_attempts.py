"""One loop of attempts: what is tried again, what is not, and that nothing is left behind."""

import asyncio
from contextlib import aclosing

import pytest
from pool_of_fakes import (
    a_call,
    a_pool,
    a_request,
    broken_after,
    going_on,
    settled,
    stalled_after,
    tasks_but_this,
    text_of,
)

from enginebay.errors import (
    BackendOverloaded,
    BackendTimeout,
    BackendUnavailable,
    ContextTooLong,
    EngineDied,
    InvalidRequest,
    NotStarted,
    UpstreamError,
)
from enginebay.gateway.hooks import GatewayHook
from enginebay.gateway.pool.breaker import BreakerBounds
from enginebay.gateway.pool.pool import PoolBounds
from enginebay.gateway.pool.replica import ReplicaState
from enginebay.gateway.pool.timeouts import Timeouts
from enginebay.testing import FakeClock
from enginebay.types import Text

WHOLE = " t0 t1 t2 t3"
GONE = BackendUnavailable("connection refused", backend="x")


def test_a_fault_before_the_first_token_is_tried_again_elsewhere_and_the_client_sees_one_answer():
    async def main():
        fake = await a_pool(broken_after(0, GONE), going_on)
        call = a_call(a_request())
        assert text_of(await fake.ask(a_request(), call)) == WHOLE
        assert [(attempt.replica, attempt.error, attempt.num_tokens) for attempt in call.attempts] == [
            ("r0", GONE, 0),
            ("r1", None, 4),
        ]
        assert fake.pool.attempts.num_retries == 1
        fake.demand_nothing_left()

    asyncio.run(main())


@pytest.mark.parametrize(
    "error",
    [InvalidRequest("no"), ContextTooLong(num_tokens=9, limit=8), UpstreamError("no such route", status=404)],
)
def test_what_the_client_is_to_blame_for_is_asked_once_and_opens_no_breaker(error):
    async def main():
        fake = await a_pool(broken_after(0, error), broken_after(0, error), breaker=BreakerBounds(num_failures=1))
        for _ in range(10):
            call = a_call(a_request())
            with pytest.raises(type(error)):
                await fake.ask(a_request(), call)
            assert len(call.attempts) == 1
        assert [replica.breaker.state for replica in fake.replicas] == ["closed", "closed"]
        assert all(replica.is_available() for replica in fake.replicas)
        fake.demand_nothing_left()

    asyncio.run(main())


def test_an_overload_goes_elsewhere_rests_the_replica_and_opens_no_breaker():
    async def main():
        clock = FakeClock()
        full = BackendOverloaded("full", backend="r0", retry_after_s=3.0)
        fake = await a_pool(broken_after(0, full), going_on, clock=clock, breaker=BreakerBounds(num_failures=1))
        assert text_of(await fake.ask(a_request())) == WHOLE
        assert fake.replicas[0].breaker.state == "closed"
        assert not fake.replicas[0].is_available()
        clock.advance(3.0)
        assert fake.replicas[0].is_available()
        fake.demand_nothing_left()

    asyncio.run(main())


def test_an_engine_that_said_how_long_it_is_full_is_not_asked_before():
    async def main():
        clock = FakeClock()
        fake = await a_pool(broken_after(0, BackendOverloaded("full", retry_after_s=3.0)), clock=clock)
        for expected_s in (3.0, 2.0):
            with pytest.raises(BackendOverloaded) as refusal:
                await fake.ask(a_request())
            assert refusal.value.retry_after_s == expected_s
            clock.advance(1.0)
        assert len(fake.fakes[0].requests) == 1
        with pytest.raises(BackendOverloaded, match=r"r0 is overloaded for 1\.0 s more"):
            await fake.ask(a_request())
        fake.demand_nothing_left()

    asyncio.run(main())


def test_no_more_attempts_are_made_than_allowed_and_the_last_error_is_told():
    async def main():
        clock = FakeClock()
        fake = await a_pool(
            *[broken_after(0, EngineDied(f"died {n}")) for n in range(5)],
            clock=clock,
            bounds=PoolBounds(max_attempts=3),
        )
        call = a_call(a_request())
        with pytest.raises(EngineDied, match="died 2"):
            await clock.run(fake.ask(a_request(), call))
        assert [attempt.replica for attempt in call.attempts] == ["r0", "r1", "r2"]
        fake.demand_nothing_left()

    asyncio.run(main())


def test_retries_stay_a_share_of_the_requests_when_everything_fails():
    async def main():
        clock = FakeClock()
        bounds = PoolBounds(max_attempts=3, retry_ratio=0.1, min_retries_per_s=0.0, max_in_flight=10)
        broken = [broken_after(0, EngineDied("died"))] * 2
        fake = await a_pool(
            *broken, clock=clock, bounds=bounds, breaker=BreakerBounds(num_failures=10**9, num_outcomes=20)
        )
        num_attempts = 0
        for _ in range(500):
            call = a_call(a_request())
            with pytest.raises(EngineDied):
                await clock.run(fake.ask(a_request(), call))
            num_attempts += len(call.attempts)
        assert 555 <= num_attempts <= 500 + 0.1 * 500 + 10
        fake.demand_nothing_left()

    asyncio.run(main())


def test_the_only_replica_is_tried_again_after_a_pause():
    async def main():
        clock = FakeClock()
        outcomes = iter([broken_after(0, GONE), going_on])
        fake = await a_pool(lambda request: next(outcomes)(request), clock=clock)
        assert text_of(await clock.run(fake.ask(a_request()))) == WHOLE
        assert clock.now() > 0
        fake.demand_nothing_left()

    asyncio.run(main())


def test_no_replica_that_is_ready_is_told_at_once_with_the_reason_of_each():
    async def main():
        fake = await a_pool(going_on, going_on)
        for replica in fake.replicas:
            replica.became(ReplicaState.LOADING, "the model is loading")
        with pytest.raises(NotStarted, match="r0 is loading"):
            await fake.ask(a_request())
        fake.replicas[0].became(ReplicaState.DEAD, "exit code 3")
        with pytest.raises(BackendUnavailable, match=r"r0 is dead: exit code 3; r1 is loading"):
            await fake.ask(a_request())
        fake.demand_nothing_left()

    asyncio.run(main())


@pytest.mark.parametrize("num_tokens", [0, 2])
def test_a_client_that_leaves_frees_the_engine_at_once_before_and_after_the_first_token(num_tokens):
    async def main():
        fake = await a_pool(stalled_after(num_tokens))
        task = asyncio.create_task(fake.ask(a_request()))
        await settled()
        assert fake.replicas[0].num_in_flight == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert fake.fakes[0].num_cancelled == 1
        fake.demand_nothing_left()
        assert fake.replicas[0].breaker.state == "closed"
        await asyncio.sleep(0)
        assert tasks_but_this() == set()

    asyncio.run(main())


def test_a_stream_that_was_never_begun_counts_nothing():
    async def main():
        fake = await a_pool(going_on)
        stream = fake.pool.stream(a_call(a_request()), a_request())
        fake.demand_nothing_left()
        await stream.aclose()
        assert fake.fakes[0].requests == []
        fake.demand_nothing_left()

    asyncio.run(main())


def test_a_consumer_that_stops_early_leaves_nothing_in_flight():
    async def main():
        fake = await a_pool(going_on)
        async with aclosing(fake.pool.stream(a_call(a_request()), a_request())) as chunks:
            async for _ in chunks:
                break
        fake.demand_nothing_left()

    asyncio.run(main())


def test_the_hook_before_the_engine_sees_each_attempt_before_anything_is_sent():
    class Seen(GatewayHook):
        def before_engine(self, call, attempt):
            seen.append((attempt.replica, len(fake.fakes[0].requests), len(fake.fakes[1].requests)))

    seen = []
    fake = None

    async def main():
        nonlocal fake
        fake = await a_pool(broken_after(0, GONE), going_on, hooks=[Seen()])
        await fake.ask(a_request())
        assert seen == [("r0", 0, 0), ("r1", 1, 0)]

    asyncio.run(main())


# ---------------------------------------------------------------- time-outs

LIMITS = Timeouts(first_token_s=2.0, between_tokens_s=1.0, total_s=20.0)


@pytest.mark.parametrize(
    ("num_tokens", "after_s", "message"),
    [(0, 2.0, "sent no token within 2 s"), (2, 1.0, "sent nothing for 1 s")],
)
def test_a_replica_that_goes_silent_is_given_up_in_time(num_tokens, after_s, message):
    async def main():
        clock = FakeClock()
        bounds = PoolBounds(max_attempts=1, timeouts=LIMITS)
        fake = await a_pool(stalled_after(num_tokens), clock=clock, bounds=bounds)
        with pytest.raises(BackendTimeout, match=message):
            await clock.run(fake.ask(a_request()))
        assert clock.now() == pytest.approx(after_s, abs=0.011)
        assert fake.fakes[0].num_cancelled == 1
        fake.demand_nothing_left()

    asyncio.run(main())


def test_a_slow_reader_is_no_silent_replica():
    async def main():
        clock = FakeClock()
        fake = await a_pool(going_on, clock=clock, bounds=PoolBounds(timeouts=LIMITS))

        async def read_slowly():
            async with aclosing(fake.pool.stream(a_call(a_request()), a_request())) as chunks:
                async for chunk in chunks:
                    texts.append(chunk.text)
                    await clock.sleep_until(clock.now() + 3 * LIMITS.between_tokens_s)

        texts = []
        await clock.run(read_slowly())
        assert "".join(texts) == WHOLE
        fake.demand_nothing_left()

    asyncio.run(main())


def test_what_is_not_streamed_has_the_time_of_the_whole():
    async def main():
        clock = FakeClock()
        fake = await a_pool(stalled_after(0), clock=clock, bounds=PoolBounds(max_attempts=1, timeouts=LIMITS))
        with pytest.raises(BackendTimeout, match="was not through within 20 s"):
            await clock.run(fake.ask(a_request(delivery="final")))
        fake.demand_nothing_left()

    asyncio.run(main())


def test_a_silent_replica_before_the_first_token_costs_its_client_time_and_nothing_else():
    async def main():
        clock = FakeClock()
        fake = await a_pool(stalled_after(0), going_on, clock=clock, bounds=PoolBounds(timeouts=LIMITS))
        assert text_of(await clock.run(fake.ask(a_request()))) == WHOLE
        fake.demand_nothing_left()

    asyncio.run(main())


def test_a_client_that_leaves_in_the_tick_of_the_time_out_is_a_client_that_left():
    async def main():
        clock = FakeClock()
        fake = await a_pool(stalled_after(0), clock=clock, bounds=PoolBounds(timeouts=LIMITS))
        task = asyncio.create_task(fake.ask(a_request()))
        await settled()
        task.cancel()
        fake.replicas[0].abandon_all(EngineDied("gone"))
        with pytest.raises(asyncio.CancelledError):
            await task
        fake.demand_nothing_left()

    asyncio.run(main())


# ---------------------------------------------------------------- fallbacks


def test_another_model_answers_where_no_replica_of_this_one_can():
    async def main():
        other = await a_pool(going_on)
        fake = await a_pool(going_on, fallbacks=lambda client: [other.pool])
        fake.replicas[0].became(ReplicaState.DEAD, "gone")
        call = a_call(a_request())
        fake.pool.demand_ready()
        assert text_of(await fake.ask(a_request(), call)) == WHOLE
        assert len(other.fakes[0].requests) == 1
        assert fake.pool.num_fallbacks == 1
        fake.demand_nothing_left()
        other.demand_nothing_left()

    asyncio.run(main())


def test_a_fallback_is_not_asked_for_what_the_client_is_to_blame_for_nor_in_the_middle_of_an_answer():
    async def main():
        other = await a_pool(going_on)
        scripts = iter([broken_after(0, InvalidRequest("no")), broken_after(2, EngineDied("died"))])
        fake = await a_pool(
            lambda request: next(scripts)(request),
            fallbacks=lambda client: [other.pool],
            bounds=PoolBounds(max_attempts=1),
        )
        for error in (InvalidRequest, EngineDied):
            with pytest.raises(error):
                await fake.ask(a_request())
        assert other.fakes[0].requests == []

    asyncio.run(main())


def test_a_fallback_that_refuses_the_request_does_not_hide_why_it_was_asked():
    async def main():
        other = await a_pool(broken_after(0, InvalidRequest("cannot do that here")))
        fake = await a_pool(
            broken_after(0, EngineDied("died")),
            fallbacks=lambda client: [other.pool],
            bounds=PoolBounds(max_attempts=1),
        )
        with pytest.raises(EngineDied, match="died"):
            await fake.ask(a_request())

    asyncio.run(main())


# ---------------------------------------------------------------- counting tokens


def test_tokens_are_counted_by_the_next_replica_where_one_is_silent_or_broken():
    async def main():
        clock = FakeClock()
        fake = await a_pool(going_on, going_on, going_on, clock=clock)

        async def silent(prompt):
            return await asyncio.get_running_loop().create_future()

        async def broken(prompt):
            raise EngineDied("died")

        fake.fakes[0].count_tokens, fake.fakes[1].count_tokens = silent, broken
        assert await clock.run(fake.pool.count_tokens(Text("a b c"))) == (0, 1, 2)
        assert clock.now() == pytest.approx(5.0, abs=0.011)
        fake.fakes[2].count_tokens = broken
        with pytest.raises(EngineDied):
            await clock.run(fake.pool.count_tokens(Text("a b c")))
        fake.demand_nothing_left()

    asyncio.run(main())
