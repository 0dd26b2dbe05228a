import asyncio
import gc
import time

import pytest

from enginebay.clock import MonotonicClock
from enginebay.loadtest.client_health import ProcessFigures, ProcessWatch, client_health, lock_step_ratio
from enginebay.loadtest.garbage import young_garbage_only
from enginebay.loadtest.plan import Load
from enginebay.loadtest.records import Record


def record(index: int, sent_at: float, *, scheduled_at: float | None = None, lasts_s: float = 1.0) -> Record:
    return Record(
        index=index,
        scheduled_at=sent_at if scheduled_at is None else scheduled_at,
        sent_at=sent_at,
        ended_at=sent_at + lasts_s,
        num_planned_prompt_tokens=1,
        max_tokens=1,
    )


def watched(work) -> ProcessFigures:
    async def main() -> ProcessFigures:
        async with ProcessWatch(MonotonicClock()) as watch:
            await work()
        return watch.figures

    return asyncio.run(main())


def test_a_loop_that_stands_still_is_noticed() -> None:
    async def hold_up() -> None:
        await asyncio.sleep(0)
        time.sleep(0.15)  # noqa: ASYNC251 - this is what it looks for
        await asyncio.sleep(0.03)

    assert watched(hold_up).longest_stall_s > 0.1


def test_a_loop_that_waits_has_not_stood_still() -> None:
    figures = watched(lambda: asyncio.sleep(0.3))
    assert figures.longest_stall_s < 0.1
    assert figures.cpu_ratio < 0.5


def test_the_cpu_ratio_is_that_of_this_process() -> None:
    """Of however much of a core it gets meanwhile."""
    computed: list[float] = []

    async def compute() -> None:
        began_at, spent_s = time.perf_counter(), time.process_time()
        while time.process_time() < spent_s + 0.1:
            pass
        computed.append((time.process_time() - spent_s) / (time.perf_counter() - began_at))

    assert watched(compute).cpu_ratio == pytest.approx(computed[0], rel=0.3)


def test_the_collector_of_garbage_is_as_it_was_after_a_run_and_after_one_that_failed() -> None:
    before = gc.get_threshold()
    seen: list[tuple[int, int, int]] = []

    def fail_in_a_run() -> None:
        with young_garbage_only():
            seen.append(gc.get_threshold())
            assert gc.get_freeze_count() > 0
            raise KeyError("it fails")

    with pytest.raises(KeyError):
        fail_in_a_run()
    assert seen[0][:2] == before[:2]
    assert seen[0][2] > 10**6
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0


def test_lags_stalls_and_cpu_are_put_together_over_all_processes() -> None:
    records = [record(index, index + 0.001 * index, scheduled_at=float(index)) for index in range(101)]
    processes = [ProcessFigures(longest_stall_s=0.2, cpu_ratio=0.5), ProcessFigures(longest_stall_s=0.1, cpu_ratio=0.7)]
    health = client_health(records, processes=processes, load=Load(rate=1.0, arrivals="constant"))
    assert (health.send_lag_p50_s, health.send_lag_p99_s, health.send_lag_max_s) == pytest.approx((0.05, 0.099, 0.1))
    assert health.longest_stall_s == 0.2
    assert health.cpu_ratios == (0.5, 0.7)
    assert health.num_processes == 2
    assert health.lock_step_ratio is None


def test_nothing_was_sent_is_no_lag_of_zero() -> None:
    health = client_health([], processes=[], load=Load(users=4))
    assert (health.send_lag_p50_s, health.send_lag_max_s, health.num_processes) == (None, None, 0)


def test_users_who_always_ask_together_are_in_lock_step_and_users_who_do_not_are_not() -> None:
    together = [record(8 * wave + user, float(wave)) for wave in range(10) for user in range(8)]
    apart = [record(8 * wave + user, wave + user / 8) for wave in range(10) for user in range(8)]
    assert lock_step_ratio(together, Load(users=8)) == 1.0
    assert lock_step_ratio(apart, Load(users=8)) == 0.0
    assert lock_step_ratio(together, Load(rate=8.0, arrivals="constant")) is None
    assert lock_step_ratio(together[:16], Load(users=8)) is None
