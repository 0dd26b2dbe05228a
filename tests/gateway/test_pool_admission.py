"""The queue before the engines: its order, its bounds, and who leaves it how."""

import asyncio
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pool_of_fakes import a_pool, a_request, paused, settled, stalled_after, text_of

from enginebay.errors import BackendOverloaded, DeadlineExceeded
from enginebay.gateway.pool.admission import Admission, AdmissionBounds
from enginebay.gateway.pool.pool import PoolBounds
from enginebay.testing import FakeClock
from enginebay.wire.deadlines import DeadlineWatch


def an_admission(clock, *, room=1, **bounds):
    return Admission(clock, DeadlineWatch(clock), room=lambda: room, bounds=AdmissionBounds(**bounds))


async def queued(admission, *requests, order):
    async def enter(request, name):
        await admission.enter(request)
        order.append(name)

    tasks = []
    for name, request in enumerate(requests):
        tasks.append(asyncio.create_task(enter(request, name)))
        await settled()
    return tasks


def test_the_next_is_the_most_urgent_then_the_one_with_the_nearest_deadline_then_who_came_first():
    async def main():
        admission = an_admission(FakeClock())
        await admission.enter(a_request())
        order = []
        requests = [
            a_request(),
            a_request(deadline_at=20.0),
            a_request(deadline_at=10.0),
            a_request(priority=-1),
            a_request(priority=1, deadline_at=5.0),
            a_request(),
        ]
        tasks = await queued(admission, *requests, order=order)
        assert admission.num_waiting == 6
        for _ in requests:
            admission.leave(took_s=0.0)
            await settled()
        await asyncio.gather(*tasks)
        assert order == [3, 2, 1, 0, 5, 4]
        admission.leave(took_s=0.0)
        assert (admission.num_inside, admission.num_waiting) == (0, 0)

    asyncio.run(main())


def test_a_full_queue_refuses_with_the_time_after_which_there_may_be_room():
    async def main():
        admission = an_admission(FakeClock(), max_queued=2, max_wait_s=100.0)
        await admission.enter(a_request())
        admission.leave(took_s=4.0)
        await admission.enter(a_request())
        tasks = await queued(admission, a_request(), a_request(), order=[])
        with pytest.raises(BackendOverloaded) as refusal:
            await admission.enter(a_request())
        assert refusal.value.retry_after_s == pytest.approx(12.0)
        assert admission.num_refused == 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


def test_a_more_urgent_request_takes_the_place_of_the_least_urgent_in_a_full_queue():
    async def main():
        admission = an_admission(FakeClock(), max_queued=2)
        await admission.enter(a_request())
        order = []
        first, second = await queued(admission, a_request(), a_request(priority=5), order=order)
        [urgent] = await queued(admission, a_request(priority=-5), order=order)
        with pytest.raises(BackendOverloaded):
            await second
        for _ in range(3):
            admission.leave(took_s=0.0)
            await settled()
        await asyncio.gather(first, urgent)
        assert order == [0, 0]
        assert (admission.num_inside, admission.num_waiting) == (0, 0)

    asyncio.run(main())


def test_a_request_that_would_wait_longer_than_it_may_is_refused_before_it_waits():
    async def main():
        clock = FakeClock()
        admission = an_admission(clock, max_wait_s=5.0)
        await admission.enter(a_request())
        admission.leave(took_s=6.0)
        await admission.enter(a_request())
        with pytest.raises(BackendOverloaded, match=r"about 6\.0 s") as refusal:
            await admission.enter(a_request())
        assert refusal.value.retry_after_s == pytest.approx(6.0)
        assert clock.now() == 0.0

    asyncio.run(main())


@pytest.mark.parametrize(("deadline_at", "error"), [(2.0, DeadlineExceeded), (None, BackendOverloaded)])
def test_who_waited_too_long_is_told_why(deadline_at, error):
    async def main():
        clock = FakeClock()
        admission = an_admission(clock, max_wait_s=3.0)
        await admission.enter(a_request())
        with pytest.raises(error):
            await clock.run(admission.enter(a_request(deadline_at=deadline_at)))
        assert clock.now() == pytest.approx(deadline_at or 3.0, abs=0.011)
        assert (admission.num_inside, admission.num_waiting) == (1, 0)

    asyncio.run(main())


def test_who_leaves_in_the_tick_in_which_its_turn_comes_gives_the_place_to_the_next():
    async def main():
        admission = an_admission(FakeClock())
        await admission.enter(a_request())
        order = []
        first, second = await queued(admission, a_request(), a_request(), order=order)
        admission.leave(took_s=0.0)
        first.cancel()
        await settled()
        assert first.cancelled()
        await second
        assert order == [1]
        assert (admission.num_inside, admission.num_waiting) == (1, 0)

    asyncio.run(main())


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.sampled_from(["enter", "urgent", "leave", "cancel", "tick", "more", "less"]), max_size=40),
    seed=st.integers(0, 2**16),
)
def test_whatever_comes_and_goes_nobody_is_counted_who_is_not_there(steps, seed):
    async def main():
        clock, rng, room = FakeClock(), Random(seed), [2]
        watch = DeadlineWatch(clock)
        bounds = AdmissionBounds(max_queued=3, max_wait_s=4.0)
        admission = Admission(clock, watch, room=lambda: room[0], bounds=bounds)
        inside, tasks = [], []

        async def enter(request):
            await admission.enter(request)
            inside.append(request)

        for step in steps:
            if step in ("enter", "urgent"):
                request = a_request(priority=-(step == "urgent"), deadline_at=clock.now() + rng.choice([1.0, 9.0]))
                tasks.append(asyncio.create_task(enter(request)))
            elif step == "leave" and inside:
                inside.pop()
                admission.leave(took_s=rng.random())
            elif step == "cancel" and tasks:
                rng.choice(tasks).cancel()
            elif step == "tick":
                await clock.run_for(1.0)
            elif step in ("more", "less"):
                room[0] = max(1, room[0] + (1 if step == "more" else -1))
                admission.wake()
            if rng.random() < 0.7:
                await settled()
                assert admission.num_inside == len(inside)
                assert admission.num_waiting == sum(not task.done() for task in tasks) <= 3
                assert not admission.num_waiting or admission.num_inside >= room[0]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert (admission.num_inside, admission.num_waiting) == (len(inside), 0)
        watch.close()

    asyncio.run(main())


def test_more_requests_than_the_replicas_take_wait_their_turn_and_all_are_answered():
    async def main():
        clock = FakeClock()
        fake = await a_pool(paused(1.0), paused(1.0), clock=clock, bounds=PoolBounds(max_in_flight=2))
        most = 0

        async def ask():
            nonlocal most
            answer = await fake.ask(a_request())
            most = max(most, *(replica.num_in_flight for replica in fake.replicas))
            return text_of(answer)

        answers = await clock.run(asyncio.gather(*(ask() for _ in range(20))))
        assert set(answers) == {" t0 t1 t2 t3"}
        assert clock.now() == pytest.approx(5.0)
        assert most <= 2
        fake.demand_nothing_left()

    asyncio.run(main())


def test_a_client_that_leaves_the_queue_never_reaches_an_engine():
    async def main():
        fake = await a_pool(stalled_after(0), bounds=PoolBounds(max_in_flight=1))
        first, second = (asyncio.create_task(fake.ask(a_request())) for _ in range(2))
        await settled()
        assert fake.pool.admission.num_waiting == 1
        second.cancel()
        await settled()
        assert len(fake.fakes[0].requests) == 1
        assert fake.pool.admission.num_waiting == 0
        first.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        fake.demand_nothing_left()

    asyncio.run(main())
