"""The journal alone: what is in the file when, and what becomes of it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_calls import call, outcome
from opened_ledger import OpenedLedger, failing_write, opened, rows_of

from enginebay.errors import ConfigError
from enginebay.gateway.ledger import writer
from enginebay.gateway.ledger.entry import Entry, decode_entry, encode_entry
from enginebay.gateway.ledger.journal import Journal
from enginebay.gateway.ledger.segments import orphaned_segments


def entry(request_id: str) -> Entry:
    return Entry(request_id=request_id, arrived_at_unix=1.0, duration_s=0.5, model="m", outcome="finished")


def ids_in(path: Path) -> list[str]:
    return [found.request_id for line in path.read_bytes().splitlines() if (found := decode_entry(line)) is not None]


def test_an_entry_is_in_the_file_when_append_returns(tmp_path) -> None:
    journal = Journal(tmp_path / "journal")
    [path] = (tmp_path / "journal").iterdir()
    for name in ("a", "b"):
        journal.append(entry(name))
        assert ids_in(path)[-1] == name
    journal.own_segment().close()


def test_one_write_for_each_entry(tmp_path) -> None:
    writes: list[bytes] = []

    def write(fd: int, line: bytes) -> int:
        writes.append(line)
        return os.write(fd, line)

    journal = Journal(tmp_path, write=write)
    for name in ("a", "b", "c"):
        journal.append(entry(name))
    assert writes == [encode_entry(entry(name)) for name in ("a", "b", "c")]
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in writes)
    journal.own_segment().close()


def test_the_files_can_be_read_by_their_owner_alone(tmp_path) -> None:
    journal = Journal(tmp_path / "journal")
    [path] = (tmp_path / "journal").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    journal.own_segment().close()


def test_an_entry_survives_writing_and_reading_with_every_field() -> None:
    full = Entry(
        request_id='quote " newline \n',
        arrived_at_unix=1795381921.1883469,
        duration_s=2.5,
        ttft_s=0.25,
        key_id="k",
        model="ein Modell, größer",
        version="v2",
        replica="v2-1",
        num_choices=3,
        num_attempts=4,
        outcome="failed",
        error_code="engine_died",
        num_prompt_tokens=7,
        num_cached_tokens=0,
        num_output_tokens=2**40,
        num_unbilled_tokens=5,
        cost_nano=2**50,
        currency="EUR",
    )
    assert decode_entry(encode_entry(full)) == full
    assert encode_entry(full).count(b"\n") == 1


def test_a_line_of_a_newer_version_is_read_and_a_damaged_one_is_none() -> None:
    newer = encode_entry(entry("a")).replace(b"{", b'{"num_invented_later":1,', 1)
    assert decode_entry(newer) == entry("a")
    for damaged in (b"", b"{}", b'{"request_id":', b"\0\0\0\0", b"\xff\xfe", b"[1]", b'{"request_id":3}'):
        assert decode_entry(damaged) is None


def test_a_directory_that_cannot_be_written_is_told_at_the_start(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"gateway\.ledger\.journal.*cannot be written"):
        Journal(tmp_path / "file" / "journal")


def test_a_segment_whose_writer_lives_is_nobodys(tmp_path) -> None:
    journal = Journal(tmp_path)
    journal.append(entry("a"))
    assert list(orphaned_segments(tmp_path)) == []
    journal.own_segment().close()  # as the end of its process would
    [orphan] = orphaned_segments(tmp_path)
    assert list(orphaned_segments(tmp_path)) == []  # it is locked again, by the one that found it
    batch = orphan.read()
    assert batch is not None
    assert [placed.entry.request_id for placed in batch.entries] == ["a"]
    orphan.close()


def test_a_segment_is_locked_before_it_has_its_name(tmp_path, monkeypatch) -> None:
    seen: list[list[str]] = []
    lock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: (seen.append(sorted(os.listdir(tmp_path))), lock(fd, how))[1])
    journal = Journal(tmp_path)
    assert len(seen) == 1
    assert not [name for name in seen[0] if name.endswith(".journal")]
    journal.own_segment().close()


# ---------------------------------------------------------------- a full disk


def test_a_full_disk_costs_no_entry_and_no_answer(tmp_path) -> None:
    room: list[int | None] = [None]
    with opened(tmp_path, write=failing_write(lambda line: room[0], os.write)) as one:
        one.hook.at_end(call("before"), outcome())
        for fitting in (0, 10, 1):  # nothing fits; a piece fits
            room[0] = fitting
            one.hook.at_end(call(f"meanwhile-{fitting}"), outcome())
        assert one.journal.num_kept == 3
        one.writer.round()
        assert one.log[-1]["event"] == "the ledger's journal cannot be written: entries wait in memory"
        assert [row["request_id"] for row in rows_of(one.url)] == ["before"]
        room[0] = None
        one.hook.at_end(call("after"), outcome())
        assert one.journal.num_kept == 0
        one.writer.round()
        assert one.log[-1]["event"] == "the ledger's journal is written again"
        assert one.writer.num_waiting == 0
    written = [row["request_id"] for row in rows_of(one.url)]
    assert written == ["before", "meanwhile-0", "meanwhile-10", "meanwhile-1", "after"]
    assert one.segments == []


def test_what_waits_is_written_when_there_is_room_although_nobody_calls(tmp_path) -> None:
    room: list[int | None] = [0]
    with opened(tmp_path, write=failing_write(lambda line: room[0], os.write)) as one:
        one.hook.at_end(call("a"), outcome())
        room[0] = None
        one.writer.round()
        assert [row["request_id"] for row in rows_of(one.url)] == ["a"]


def test_memory_is_bounded_and_what_is_lost_is_counted_and_told(tmp_path) -> None:
    room: list[int | None] = [0]
    with opened(tmp_path, write=failing_write(lambda line: room[0], os.write), max_kept=2) as one:
        for number in range(5):
            one.hook.at_end(call(f"r{number}"), outcome())
        assert (one.journal.num_kept, one.journal.num_lost) == (2, 3)
        one.writer.round()
        assert one.log[-1] | {"num_lost": 3} == one.log[-1]
        room[0] = None
        one.writer.round()
        assert one.writer.num_waiting == 0
    assert [row["request_id"] for row in rows_of(one.url)] == ["r0", "r1"]


def test_after_a_long_failure_no_call_waits_for_all_that_was_kept(tmp_path) -> None:
    room: list[int | None] = [0]
    num_writes = 0

    def write(fd: int, line: bytes) -> int:
        nonlocal num_writes
        num_writes += 1
        return limited(fd, line)

    limited = failing_write(lambda line: room[0], os.write)
    with opened(tmp_path, write=write) as one:
        for number in range(100):
            one.hook.at_end(call(f"r{number:03}"), outcome())
        room[0], num_writes = None, 0
        one.hook.at_end(call("r100"), outcome())
        assert num_writes <= 20
        assert one.journal.num_kept > 0
        one.journal.retry()
        assert one.journal.num_kept == 0
    assert [row["request_id"] for row in rows_of(one.url)] == [f"r{number:03}" for number in range(101)]


@given(st.lists(st.sampled_from([None, 0, 1, 40, 200])))
def test_however_the_disk_fails_entries_come_out_once_and_in_order(tmp_path_factory, fittings) -> None:
    room: list[int | None] = [None]
    journal = Journal(
        tmp_path_factory.mktemp("journal"),
        write=failing_write(lambda line: None if room[0] is None else min(room[0], len(line) - 1), os.write),
    )
    for number, fitting in enumerate(fittings):
        room[0] = fitting
        journal.append(entry(f"r{number}"))
    room[0] = None
    journal.retry()
    segment = journal.own_segment()
    read: list[str] = []
    while (batch := segment.read()) is not None:
        assert batch.num_damaged == 0
        read += [placed.entry.request_id for placed in batch.entries]
        segment.advance(batch)
    segment.close()
    assert read == [f"r{number}" for number in range(len(fittings))]


# ---------------------------------------------------------------- segments


def test_a_full_segment_is_followed_by_another_and_deleted_once_it_is_stored(tmp_path) -> None:
    with opened(tmp_path, max_segment_bytes=500) as one:
        for number in range(10):
            one.hook.at_end(call(f"r{number}"), outcome())
        one.is_away = True
        one.writer.round()
        assert len(one.segments) == 2
        for number in range(10, 12):
            one.hook.at_end(call(f"r{number}"), outcome())
        one.is_away = False
        one.clock.advance(100.0)
        one.writer.round()
        assert [path.stem for path in one.segments] == [one.journal.own_segment().name]
    assert sorted(row["request_id"] for row in rows_of(one.url)) == sorted(f"r{number}" for number in range(12))
    assert one.segments == []


def test_damaged_lines_are_told_and_kept_and_the_others_are_stored(tmp_path) -> None:
    first = OpenedLedger(tmp_path)
    for name in ("a", "b", "c"):
        first.hook.at_end(call(name), outcome())
    [path] = first.segments
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"\0" * 37 + b"\n" + lines[2] + b'{"request_id":"torn')
    first.journal.own_segment().close()
    with opened(tmp_path) as second:
        second.writer.round()
        assert [line["num_damaged"] for line in second.log if "damaged lines" in line["event"]] == [2]
        assert [row["request_id"] for row in rows_of(second.url)] == ["a", "c"]
    assert [kept.suffix for kept in second.segments] == [".damaged"]


def test_a_line_that_was_torn_off_at_the_end_is_told_and_kept(tmp_path) -> None:
    first = OpenedLedger(tmp_path)
    first.hook.at_end(call("whole"), outcome())
    [path] = first.segments
    path.write_bytes(path.read_bytes() + b'{"request_id":"torn')
    first.journal.own_segment().close()
    with opened(tmp_path) as second:
        second.writer.round()
        assert [line["num_damaged"] for line in second.log if "damaged lines" in line["event"]] == [1]
        assert [row["request_id"] for row in rows_of(second.url)] == ["whole"]
    assert [kept.suffix for kept in second.segments] == [".damaged"]


def test_a_long_outage_of_the_database_holds_few_files_open_and_loses_nothing(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(writer, "MAX_OPEN_SEGMENTS", 3)
    num_open = len(os.listdir("/proc/self/fd"))
    with opened(tmp_path, max_segment_bytes=500) as one:
        one.hook.at_end(call("stored"), outcome())
        one.writer.round()
        one.is_away = True
        one.writer._database = None  # the connection broke
        names = [f"r{number}" for number in range(40)]
        for name in names:
            one.hook.at_end(call(name), outcome())
            one.hook.at_end(call(f"{name}-2"), outcome())
            one.writer.round()
            one.clock.advance(5.0)
        assert len(one.segments) > 20
        assert len(os.listdir("/proc/self/fd")) - num_open <= 5 + 6  # a connection to the database is some too
        assert one.writer.num_waiting == 80
        one.is_away = False
        one.clock.advance(100.0)
        for _ in range(20):
            one.writer.round()
        assert one.writer.num_waiting == 0
        assert len(one.segments) == 1
        assert not [line for line in one.log if "ended early" in line["event"]]
    stored = sorted(row["request_id"] for row in rows_of(one.url))
    assert stored == sorted(["stored", *names, *(f"{name}-2" for name in names)])
