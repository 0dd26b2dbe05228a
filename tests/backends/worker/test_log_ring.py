"""The log of a child: what is kept of it, and what of a file that cannot be written to."""

import asyncio
import os
from pathlib import Path

import pytest

from enginebay.backends.worker.log_ring import MAX_LINE_LENGTH, MAX_LINES, LogRing
from enginebay.backends.worker.start_failure import explained


def collected(written: bytes) -> LogRing:
    async def main() -> LogRing:
        ring = LogRing()
        write_end = await ring.open_pipe()
        collecting = asyncio.create_task(ring.collect())
        await asyncio.to_thread(_write_and_close, write_end, written)
        await collecting
        return ring

    return asyncio.run(main())


def _write_and_close(write_end: int, written: bytes) -> None:
    with os.fdopen(write_end, "wb") as file:
        file.write(written)


def test_one_endless_line_is_one_line_of_which_the_middle_is_lost():
    ring = collected(b"before\n[" + b"." * 5_000_000 + b"] the end\nafter\n")
    before, long_line, after = ring.tail()
    assert (before, after) == ("before", "after")
    assert long_line.startswith("[...")
    assert " [...] " in long_line
    assert long_line.endswith("] the end")
    assert len(long_line) < 2 * MAX_LINE_LENGTH


def test_a_last_line_without_an_end_is_kept():
    assert collected(b"first\nthe last word").tail() == ["first", "the last word"]


def test_a_line_that_tells_the_cause_is_kept_however_much_is_written_after_it():
    telling = "ERROR torch.OutOfMemoryError: CUDA out of memory."
    ring = collected(f"begin\n{telling}\n".encode() + b"  File core.py, in step\n" * (3 * MAX_LINES))
    assert telling not in ring.tail(MAX_LINES)
    cause, shown = explained(returncode=1, log=ring.tail(MAX_LINES), telling=ring.telling, python="python")
    assert cause is not None
    assert "memory ran out on the GPU" in cause
    assert shown[:2] == [telling, "[...]"]


def test_what_an_engine_tries_and_does_not_find_is_a_cause_among_the_last_lines_alone():
    ring = collected(b"No module named 'flash_attn', going on without\n" + b"a step\n" * (2 * MAX_LINES))
    cause, _ = explained(returncode=1, log=ring.tail(MAX_LINES), telling=ring.telling, python="python")
    assert cause is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_costs_the_file_and_not_the_log():
    async def main() -> None:
        ring = LogRing(Path("/dev/full"))
        write_end = await ring.open_pipe()
        os.write(write_end, b"first\nsecond\n")
        os.close(write_end)
        await ring.collect()
        assert ring.tail() == ["[/dev/full ends here: No space left on device]", "first", "second"]

    asyncio.run(main())
