import asyncio
import os
import sys
import time

import pytest
import uvloop
from loadtest_fakes import VirtualClock

from enginebay.clock import MonotonicClock
from enginebay.loadtest.arrival_timer import arrival_timer


def num_open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(sys.platform != "linux", reason="timerfd is of Linux")
@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_it_wakes_after_each_instant_never_before_and_leaves_no_descriptor(new_loop) -> None:
    async def main() -> None:
        before = num_open_files()
        with arrival_timer(MonotonicClock()) as sleep_until:
            began_at = time.monotonic()
            lags = []
            for number in range(1, 41):
                instant = began_at + number * 0.0013
                await sleep_until(instant)
                lags.append(time.monotonic() - instant)
            assert min(lags) >= 0
            assert sorted(lags)[10] < 0.002  # on a busy machine some are late
            await sleep_until(began_at)  # gone by: returns at once
        assert num_open_files() == before

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="timerfd is of Linux")
def test_a_wait_that_was_cancelled_does_not_end_the_next_one_early() -> None:
    async def main() -> None:
        with arrival_timer(MonotonicClock()) as sleep_until:
            first = asyncio.ensure_future(sleep_until(time.monotonic() + 0.02))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait({first})
            instant = time.monotonic() + 0.1
            await sleep_until(instant)
            assert time.monotonic() >= instant

    asyncio.run(main())


def test_another_clock_is_slept_on_itself() -> None:
    async def main() -> None:
        clock = VirtualClock()
        with arrival_timer(clock) as sleep_until:
            at = clock.now()
            await sleep_until(at + 3600)
            assert clock.now() == at + 3600

    asyncio.run(main())
