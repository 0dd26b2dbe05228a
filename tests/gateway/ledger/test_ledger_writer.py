"""From the journal into the database: each entry once, whatever fails in between."""

from __future__ import annotations

import asyncio
import sqlite3

from ledger_calls import call, outcome
from opened_ledger import OpenedLedger, opened, rows_of
from prometheus_client import CollectorRegistry, generate_latest

from enginebay.clock import MonotonicClock
from enginebay.config.gateway_ledger import LedgerConfig
from enginebay.errors import StoreUnavailable
from enginebay.gateway.database import open_database
from enginebay.gateway.ledger import writer
from enginebay.gateway.ledger.collector import LedgerCollector
from enginebay.gateway.ledger.ledger import Ledger
from enginebay.gateway.logs import make_logger


def ids_of(url: str) -> list[str]:
    return [row["request_id"] for row in rows_of(url)]


def metrics_of(one: OpenedLedger) -> dict[str, float]:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(LedgerCollector(one.journal, one.writer))
    lines = generate_latest(registry).decode().splitlines()
    return {name: float(value) for name, value in (line.split() for line in lines if not line.startswith("#"))}


def test_a_round_stores_what_was_appended_and_the_next_only_what_came_since(tmp_path, monkeypatch) -> None:
    stored: list[int] = []
    store = writer.store
    monkeypatch.setattr(
        writer, "store", lambda database, entries: (stored.append(len(entries)), store(database, entries))
    )
    with opened(tmp_path) as one:
        for name in ("a", "b"):
            one.hook.at_end(call(name), outcome())
        one.writer.round()
        one.writer.round()
        one.hook.at_end(call("c"), outcome())
        one.writer.round()
        assert ids_of(one.url) == ["a", "b", "c"]
        assert one.writer.num_stored == 3
    assert stored == [2, 1]
    assert one.segments == []


def test_without_a_database_entries_wait_in_the_journal_and_that_is_told_once(tmp_path) -> None:
    with opened(tmp_path) as one:
        one.is_away = True
        for number in range(3):
            one.hook.at_end(call(f"r{number}"), outcome())
            one.writer.round()
            one.clock.advance(100.0)
        assert metrics_of(one) | {"enginebay_ledger_up": 0, "enginebay_ledger_waiting_entries": 3} == metrics_of(one)
        assert [line["event"] for line in one.log] == [
            "the ledger's database cannot be used: entries wait in the journal"
        ]
        assert one.log[0]["reason"] == "the database has gone for a walk"
        one.is_away = False
        one.writer.round()
        assert one.log[-1]["event"] == "the ledger's database works again"
        assert metrics_of(one) == {
            "enginebay_ledger_up": 1,
            "enginebay_ledger_waiting_entries": 0,
            "enginebay_ledger_unwritten_entries": 0,
            "enginebay_ledger_lost_entries_total": 0,
        }
    assert ids_of(one.url) == ["r0", "r1", "r2"]


def test_a_database_that_is_away_is_asked_less_and_less(tmp_path) -> None:
    with opened(tmp_path) as one:
        one.is_away = True
        asked_at: list[float] = []
        connect = one.connect
        one.writer._connect = lambda: (asked_at.append(one.clock.now()), connect())[1]
        for _ in range(200):
            one.writer.round()
            one.clock.advance(0.5)
        one.is_away = False
    assert asked_at[:6] == [0.0, 1.0, 3.0, 7.0, 15.0, 31.0]
    assert asked_at[6] == 61.0  # and never more seldom than that


def test_a_gateway_that_ends_without_its_database_leaves_its_journal_to_the_next(tmp_path) -> None:
    with opened(tmp_path) as first:
        first.is_away = True
        first.hook.at_end(call("a"), outcome())
    assert len(first.segments) == 1
    with opened(tmp_path) as second:
        second.hook.at_end(call("b"), outcome())
    assert sorted(ids_of(second.url)) == ["a", "b"]
    assert second.segments == []


def test_entries_that_are_read_twice_are_stored_once(tmp_path) -> None:
    """As after a kill between the commit and the deletion of the segment."""
    first = OpenedLedger(tmp_path)
    for name in ("a", "b"):
        first.hook.at_end(call(name), outcome())
    first.writer.round()
    first.hook.at_end(call("c"), outcome())
    first.journal.own_segment().close()
    for _ in range(2):
        with opened(tmp_path):
            pass
    assert ids_of(first.url) == ["a", "b", "c"]


def test_one_id_sent_twice_is_two_calls(tmp_path) -> None:
    with opened(tmp_path) as one:
        for _ in range(2):
            one.hook.at_end(call("same"), outcome())
    assert ids_of(one.url) == ["same", "same"]


def test_a_batch_that_fails_half_way_leaves_nothing_and_is_stored_later(tmp_path) -> None:
    with opened(tmp_path) as one:
        one.hook.at_end(call("a"), outcome())
        one.writer.round()
        with sqlite3.connect(f"{tmp_path}/ledger.db") as other:
            other.execute(
                "CREATE TRIGGER full BEFORE INSERT ON ledger WHEN NEW.request_id = 'c' "
                "BEGIN SELECT RAISE(ABORT, 'database or disk is full'); END"
            )
        for name in ("b", "c", "d"):
            one.hook.at_end(call(name), outcome())
        one.writer.round()
        assert "database or disk is full" in one.log[-1]["reason"]
        assert ids_of(one.url) == ["a"]
        assert one.writer.num_waiting == 3
        with sqlite3.connect(f"{tmp_path}/ledger.db") as other:
            other.execute("DROP TRIGGER full")
        other.close()
        one.clock.advance(100.0)
        one.writer.round()
    assert ids_of(one.url) == ["a", "b", "c", "d"]


def test_another_gateway_that_dies_is_adopted_while_this_one_runs(tmp_path) -> None:
    with opened(tmp_path) as living:
        living.writer.round()
        dead = OpenedLedger(tmp_path)
        dead.hook.at_end(call("of the dead"), outcome())
        living.clock.advance(writer.ADOPT_PERIOD_S)
        living.writer.round()
        assert ids_of(living.url) == []  # it lives still
        dead.journal.own_segment().close()
        living.clock.advance(writer.ADOPT_PERIOD_S)
        living.writer.round()
        assert ids_of(living.url) == ["of the dead"]
        assert living.writer.num_waiting == 0


def test_a_failure_that_nobody_thought_of_ends_neither_the_thread_nor_the_ledger(tmp_path, monkeypatch) -> None:
    with opened(tmp_path) as one:
        one.hook.at_end(call("a"), outcome())
        with monkeypatch.context() as patched:
            patched.setattr(writer, "store", lambda *_: 1 / 0)
            one.writer.round()
        assert "ZeroDivisionError" in one.log[-1]["exception"]
    assert ids_of(one.url) == ["a"]


def test_the_thread_stores_and_ends_with_the_server(tmp_path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    config = LedgerConfig.model_validate({"journal": f"{tmp_path}/journal"})

    async def main() -> None:
        one = Ledger(config, lambda: open_database(url), log=make_logger(), clock=MonotonicClock())
        await one.begin()
        one.hook_for(config).at_end(call("a"), outcome())
        await one.end()

    asyncio.run(main())
    assert ids_of(url) == ["a"]
    assert list((tmp_path / "journal").iterdir()) == []


def test_what_an_earlier_gateway_left_is_stored_before_the_first_call(tmp_path) -> None:
    earlier = OpenedLedger(tmp_path)
    earlier.hook.at_end(call("left behind"), outcome())
    earlier.journal.own_segment().close()
    config = LedgerConfig.model_validate({"journal": f"{tmp_path}/journal"})

    async def main() -> list[str]:
        one = Ledger(config, lambda: open_database(earlier.url), log=make_logger(), clock=MonotonicClock())
        await one.begin()
        try:
            return ids_of(earlier.url)
        finally:
            await one.end()

    assert asyncio.run(main()) == ["left behind"]


def test_the_thread_ends_in_time_where_the_database_stays_away(tmp_path) -> None:
    config = LedgerConfig.model_validate({"journal": f"{tmp_path}/journal"})

    def away():
        raise StoreUnavailable("away")

    async def main() -> None:
        one = Ledger(config, away, log=make_logger(), clock=MonotonicClock())
        await one.begin()
        one.hook_for(config).at_end(call("a"), outcome())
        async with asyncio.timeout(5):
            await one.end()

    asyncio.run(main())
    assert len(list((tmp_path / "journal").iterdir())) == 1


def test_what_comes_after_the_end_is_written_nowhere_and_counted(tmp_path) -> None:
    with opened(tmp_path) as one:
        one.hook.at_end(call("in time"), outcome())
    with (tmp_path / "some other file").open("wb", buffering=0) as other:  # it may get the number of the closed one
        one.hook.at_end(call("late"), outcome())
        assert other.tell() == 0
    assert (one.journal.num_lost, one.journal.num_kept) == (1, 0)
    assert ids_of(one.url) == ["in time"]
