"""Replicas are watched beside their requests: health out of the data path, and a canary right through it."""

import asyncio

import pytest
from pool_of_fakes import a_pool, a_request, going_on, paused, settled, stalled_after, text_of

from enginebay.errors import BackendOverloaded, EngineDied
from enginebay.gateway.logs import make_logger
from enginebay.gateway.pool.pool import PoolBounds
from enginebay.gateway.pool.replica import ReplicaState
from enginebay.gateway.pool.watch import HealthBounds, ReplicaWatch, canary_request
from enginebay.testing import FakeBackend, FakeClock, Stall
from enginebay.types import Capabilities, Chat, EngineStats, Feature, Health, HealthState, Text, TokenIds

BOUNDS = HealthBounds(
    period_s=1.0,
    timeout_s=0.5,
    canary_period_s=10.0,
    canary_timeout_s=4.0,
    num_failures=2,
    num_canaries_before_restart=4,
)


async def watched(fake, index=0, bounds=BOUNDS, clock=None):
    """The task that watches it, and the list of reasons for which it was found dead."""
    deaths = []
    watch = ReplicaWatch(
        fake.replicas[index],
        fake.fakes[index],
        clock=clock,
        watch=fake.watch,
        log=make_logger(),
        on_dead=deaths.append,
        bounds=bounds,
    )
    task = asyncio.create_task(watch.run())
    await settled()
    return task, deaths


async def ended(task):
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def run(main):
    clock = FakeClock()
    asyncio.run(main(clock))


def is_canary(request):
    return request.request_id.startswith("canary")


def test_health_that_fails_twice_takes_it_out_and_one_success_brings_it_back():
    async def main(clock):
        fake = await a_pool(going_on, clock=clock)
        task, _ = await watched(fake, clock=clock)
        [backend], [replica] = fake.fakes, fake.replicas
        backend.health_now = Health(HealthState.DEAD, "connection refused")
        await clock.run_for(1.0)
        assert replica.state is ReplicaState.READY
        await clock.run_for(1.0)
        assert (replica.state, replica.reason) == (ReplicaState.UNHEALTHY, "connection refused")
        assert not replica.is_available()
        backend.health_now = Health(HealthState.READY)
        await clock.run_for(1.0)
        assert replica.is_available()
        await ended(task)
        fake.demand_nothing_left()

    run(main)


def test_health_that_does_not_answer_is_no_health():
    class Silent(FakeBackend):
        async def health(self):
            return await asyncio.get_running_loop().create_future()

    async def main(clock):
        fake = await a_pool(going_on, clock=clock)
        silent = Silent(clock=clock)
        fake.fakes = [silent]
        task, _ = await watched(fake, clock=clock)
        await clock.run_for(4.0)
        assert fake.replicas[0].state is ReplicaState.UNHEALTHY
        assert fake.replicas[0].reason == "no answer within 0.5 s"
        await ended(task)
        fake.demand_nothing_left()

    run(main)


def test_a_burst_that_fills_the_engine_does_not_starve_the_health_checks():
    async def main(clock):
        fake = await a_pool(paused(100.0), clock=clock, bounds=PoolBounds(max_in_flight=8))
        num_checks = 0

        async def health():
            nonlocal num_checks
            num_checks += 1
            return Health(HealthState.READY)

        fake.fakes[0].health = health
        task, _ = await watched(fake, clock=clock, bounds=HealthBounds(period_s=1.0, canary_period_s=1e6))
        burst = [asyncio.create_task(fake.ask(a_request())) for _ in range(200)]
        await clock.run_for(20.0)
        assert num_checks >= 20
        assert fake.replicas[0].state is ReplicaState.READY
        assert fake.pool.admission.num_waiting == 192
        for request in burst:
            request.cancel()
        await asyncio.gather(*burst, return_exceptions=True)
        await ended(task)
        fake.demand_nothing_left()

    run(main)


def test_an_engine_that_is_dead_behind_a_healthy_front_end_is_found_and_its_requests_go_on_elsewhere():
    async def main(clock):
        fake = await a_pool(stalled_after(2), going_on, clock=clock)
        asking = asyncio.create_task(fake.ask(a_request()))
        task, deaths = await watched(fake, clock=clock)
        fake.fakes[0]._script = lambda request: [Stall()]
        await clock.run_for(10.0 + 4.0 + 1.0 + 4.1)
        assert fake.fakes[0].health_now.state is HealthState.READY
        assert fake.replicas[0].state is ReplicaState.UNHEALTHY
        assert "no token came out: no answer within 4 s" in fake.replicas[0].reason
        assert text_of(await asking) == " t0 t1 t2 t3"
        assert deaths == []
        await clock.run_for(2 * 5.1 + 1.0)
        assert len(deaths) == 1
        assert fake.replicas[0].state is ReplicaState.DEAD
        await settled()
        assert task.done()
        fake.demand_nothing_left()

    run(main)


@pytest.mark.parametrize(("makes_tokens", "state"), [(True, "ready"), (False, "unhealthy")])
def test_an_engine_full_of_answers_in_one_piece_is_alive_while_it_counts_tokens(makes_tokens, state):
    """Nothing of them is seen before their end, and a canary waits behind them."""

    class Busy(FakeBackend):
        async def stats(self):
            return EngineStats(generation_tokens_total=100.0 + (self._clock.now() if makes_tokens else 0.0))

    async def main(clock):
        fake = await a_pool(going_on, clock=clock)
        fake.fakes = [Busy(script=lambda request: [Stall()], clock=clock)]
        await fake.fakes[0].start()
        task, _ = await watched(fake, clock=clock)
        await clock.run_for(21.0)
        assert any(is_canary(request) for request in fake.fakes[0].requests)
        assert fake.replicas[0].state == state
        await ended(task)

    run(main)


def test_what_is_not_ours_is_never_given_up():
    async def main(clock):
        fake = await a_pool(lambda request: [Stall()], clock=clock)
        bounds = HealthBounds(canary_period_s=1.0, canary_timeout_s=1.0, period_s=1.0)
        task, deaths = await watched(fake, clock=clock, bounds=bounds)
        await clock.run_for(60.0)
        assert deaths == []
        assert fake.replicas[0].state is ReplicaState.UNHEALTHY
        fake.fakes[0]._script = going_on
        await clock.run_for(5.0)
        assert fake.replicas[0].state is ReplicaState.READY
        await ended(task)
        fake.demand_nothing_left()

    run(main)


def test_an_engine_that_makes_tokens_gets_no_canary_and_an_idle_one_few():
    async def main(clock):
        fake = await a_pool(going_on, clock=clock)
        task, _ = await watched(fake, clock=clock)
        for _ in range(50):
            await fake.ask(a_request())
            await clock.run_for(1.0)
        assert not any(is_canary(request) for request in fake.fakes[0].requests)
        await clock.run_for(100.0)
        num_canaries = sum(is_canary(request) for request in fake.fakes[0].requests)
        assert 8 <= num_canaries <= 10
        await ended(task)
        fake.demand_nothing_left()

    run(main)


def test_canaries_are_no_requests_of_clients():
    async def main(clock):
        fake = await a_pool(going_on, clock=clock)
        task, _ = await watched(fake, clock=clock)
        await clock.run_for(60.0)
        assert fake.fakes[0].num_finished >= 5
        metrics = fake.replicas[0].backend.metrics
        assert (metrics.num_output_tokens, dict(metrics.num_requests_by_outcome)) == (0, {})
        await ended(task)

    run(main)


@pytest.mark.parametrize(("error", "state"), [(BackendOverloaded("full"), "ready"), (EngineDied("x"), "unhealthy")])
def test_a_canary_that_finds_no_room_says_nothing_against_the_engine(error, state):
    async def main(clock):
        fake = await a_pool(lambda request: [error], clock=clock)
        task, _ = await watched(fake, clock=clock)
        await clock.run_for(11.5)
        assert fake.replicas[0].state == state
        await ended(task)
        fake.demand_nothing_left()

    run(main)


def test_what_is_dead_for_good_is_told_once_and_watched_no_more():
    async def main(clock):
        fake = await a_pool(going_on, clock=clock)
        task, deaths = await watched(fake, clock=clock)
        fake.fakes[0].health_now = Health(HealthState.DEAD, "exit code 9", is_final=True)
        await clock.run_for(5.0)
        assert deaths == ["exit code 9"]
        assert task.done()
        assert not fake.replicas[0].is_available()

    run(main)


@pytest.mark.parametrize(
    ("features", "kind"),
    [({Feature.TEXT_PROMPT, Feature.CHAT}, Text), ({Feature.CHAT}, Chat), ({Feature.TOKEN_PROMPT}, TokenIds)],
)
def test_the_canary_asks_for_what_the_engine_can_read(features, kind):
    backend = FakeBackend(capabilities=Capabilities(features=frozenset(features)))
    request = canary_request("c", backend)
    assert isinstance(request.prompt, kind)
    assert request.sampling.max_tokens == 1
