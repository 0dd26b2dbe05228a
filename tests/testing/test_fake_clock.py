from __future__ import annotations

import asyncio

import pytest

from enginebay.testing import FakeClock


def run(main):
    asyncio.run(asyncio.wait_for(main(), 20))


async def note(clock, instant, log):
    await clock.sleep_until(instant)
    log.append((instant, clock.now()))


def test_an_hour_passes_at_once_and_every_sleeper_wakes_at_its_own_instant_in_order():
    clock, log = FakeClock(), []

    async def main():
        await clock.run(asyncio.wait([asyncio.create_task(note(clock, at, log)) for at in (3600.0, 1.5, 60.0)]))
        assert log == [(1.5, 1.5), (60.0, 60.0), (3600.0, 3600.0)]
        assert clock.now() == 3600.0

    run(main)


def test_what_a_sleeper_starts_runs_before_the_next_sleeper_wakes():
    clock, log = FakeClock(), []

    async def chain():
        await note(clock, 1.0, log)
        await note(clock, 2.0, log)

    async def main():
        await clock.run(asyncio.wait([asyncio.create_task(chain()), asyncio.create_task(note(clock, 3.0, log))]))
        assert [instant for instant, _ in log] == [1.0, 2.0, 3.0]

    run(main)


def test_time_stands_still_until_it_is_moved():
    clock, log = FakeClock(5.0), []

    async def main():
        task = asyncio.create_task(note(clock, 6.0, log))
        await asyncio.sleep(0.01)
        assert (clock.now(), log, clock.num_sleepers) == (5.0, [], 1)
        clock.advance(10.0)
        await task
        assert log == [(6.0, 15.0)]

    run(main)


def test_running_for_a_while_stops_there():
    clock, log = FakeClock(), []

    async def main():
        tasks = [asyncio.create_task(note(clock, at, log)) for at in (1.0, 2.0, 3.0)]
        await clock.run_for(2.5)
        assert [instant for instant, _ in log] == [1.0, 2.0]
        assert clock.now() == 2.5
        tasks[2].cancel()

    run(main)


def test_an_instant_that_has_passed_is_not_waited_for():
    async def main():
        clock = FakeClock(9.0)
        await asyncio.wait_for(clock.sleep_until(9.0), timeout=10)
        assert clock.num_sleepers == 0

    run(main)


def test_a_cancelled_sleeper_does_not_hold_time_back():
    clock, log = FakeClock(), []

    async def main():
        task = asyncio.create_task(note(clock, 1.0, log))
        await asyncio.sleep(0)
        task.cancel()
        await clock.run(note(clock, 2.0, log))
        assert log == [(2.0, 2.0)]

    run(main)


def test_a_wait_for_something_else_is_told_instead_of_hanging(monkeypatch):
    monkeypatch.setattr("enginebay.testing.fake_clock._PATIENCE_S", 0.05)
    clock = FakeClock()

    async def main():
        with pytest.raises(RuntimeError, match="waits for something else"):
            await clock.run(asyncio.get_running_loop().create_future())

    run(main)


def test_an_error_inside_comes_out():
    async def fails():
        raise KeyError("x")

    async def main():
        with pytest.raises(KeyError):
            await FakeClock().run(fails())

    run(main)
