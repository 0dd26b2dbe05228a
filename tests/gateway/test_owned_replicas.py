"""Replicas are started, and started again when they die, without a word of their clients'."""

import asyncio
from random import Random

import pytest
from pool_of_fakes import going_on, settled, tasks_but_this

from enginebay.errors import NotStarted, StartFailed
from enginebay.gateway.logs import make_logger
from enginebay.gateway.pool.replica import ReplicaState
from enginebay.gateway.replicas import OwnedReplica, ReplicaSettings, RestartBounds
from enginebay.guard import GuardedBackend
from enginebay.testing import FakeBackend, FakeClock
from enginebay.types import Health, HealthState
from enginebay.wire.deadlines import DeadlineWatch


class Engines:
    """Makes a new fake each time; `start_errors` are those of the first ones."""

    def __init__(self, clock, *start_errors, start_takes_s=0.0):
        self.clock, self.start_errors, self.start_takes_s = clock, list(start_errors), start_takes_s
        self.made = []

    def __call__(self):
        error = self.start_errors.pop(0) if self.start_errors else None
        fake = FakeBackend(
            script=going_on, clock=self.clock, start_error=error, start_takes_s=self.start_takes_s, name="engine"
        )
        self.made.append(fake)
        return GuardedBackend(fake)


def owned(clock, engines):
    watch = clock.watch
    settings = ReplicaSettings(restarts=RestartBounds(min_pause_s=1.0, max_pause_s=8.0))
    return OwnedReplica("r0", engines, clock=clock, watch=watch, log=make_logger(), rng=Random(3), settings=settings)


def run(main):
    """No task is left, once the watch that all replicas of a gateway share is closed."""
    clock = FakeClock()
    clock.watch = DeadlineWatch(clock)

    async def checked():
        await main(clock)
        clock.watch.close()
        await settled()
        assert tasks_but_this() == set()

    asyncio.run(checked())


def test_it_is_loading_then_ready_then_closed():
    async def main(clock):
        engines = Engines(clock, start_takes_s=5.0)
        replica = owned(clock, engines)
        replica.begin()
        await settled()
        assert replica.replica.state is ReplicaState.LOADING
        with pytest.raises(NotStarted):
            replica.demand_ready()
        await clock.run_for(5.0)
        assert replica.replica.is_available()
        await replica.end()
        assert engines.made[0].num_closes == 1

    run(main)


def test_one_that_dies_is_closed_and_started_anew_and_its_breaker_starts_anew_too():
    async def main(clock):
        engines = Engines(clock)
        replica = owned(clock, engines)
        replica.begin()
        await settled()
        for _ in range(5):
            replica.replica.breaker.failed(None)
        assert not replica.replica.is_available()
        engines.made[0].health_now = Health(HealthState.DEAD, "exit code 9", is_final=True)
        await clock.run_for(2.0)
        assert engines.made[0].num_closes == 1
        await clock.run_for(2.0)
        assert len(engines.made) == 2
        assert replica.replica.is_available()
        assert replica.num_starts == 2
        await replica.end()

    run(main)


def test_starts_that_fail_are_tried_again_after_ever_longer_pauses_up_to_a_bound():
    async def main(clock):
        failures = [StartFailed(f"no memory {n}") for n in range(6)]
        engines = Engines(clock, *failures)
        replica = owned(clock, engines)
        replica.begin()
        started_at = []
        while len(engines.made) < 7:
            if len(engines.made) > len(started_at):
                started_at.append(clock.now())
            await clock.run_for(0.05)
        pauses = [after - before for before, after in zip(started_at, [*started_at[1:], clock.now()], strict=True)]
        assert all(
            most / 2 - 0.1 <= pause <= most + 0.1 for pause, most in zip(pauses, [2, 4, 8, 8, 8, 8], strict=False)
        )
        await settled()
        assert replica.failure is None
        assert replica.replica.is_available()
        assert all(fake.num_closes == 1 for fake in engines.made[:-1])
        await replica.end()

    run(main)


def test_why_the_start_failed_is_told_while_it_is_tried_again():
    async def main(clock):
        engines = Engines(clock, StartFailed("no memory"), ZeroDivisionError("a bug"))
        replica = owned(clock, engines)
        replica.begin()
        await settled()
        assert replica.replica.state is ReplicaState.DEAD
        assert replica.replica.reason == "start failed: no memory"
        with pytest.raises(StartFailed, match="no memory"):
            replica.demand_ready()
        await clock.run_for(2.0)
        assert "a bug" in replica.replica.reason
        await replica.end()

    run(main)


@pytest.mark.parametrize("after_s", [0.0, 0.5, 3.0])
def test_an_end_at_any_moment_leaves_no_task_and_closes_every_engine(after_s):
    async def main(clock):
        engines = Engines(clock, StartFailed("first"), start_takes_s=1.0)
        replica = owned(clock, engines)
        replica.begin()
        await clock.run_for(after_s)
        await replica.end()
        assert tasks_but_this() == set()
        assert all(fake.num_closes == 1 for fake in engines.made)
        assert replica.replica.state is ReplicaState.DEAD

    run(main)
