"""`kill -9` at any point loses no answered call and counts none twice."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

from opened_ledger import opened, rows_of

NUM_KILLS = 5
CHILD = Path(__file__).with_name("answering_child.py")


def answered_before_kill(folder: Path, round_name: str, num_before: int) -> list[str]:
    """Ids of the calls that the child had answered, at least num_before."""
    child = subprocess.Popen(
        [sys.executable, str(CHILD), str(folder), round_name], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stderr is not None
    with child, child.stdout as output:
        first = [output.readline() for _ in range(num_before)]
        child.kill()
        lines = [*first, *output]
        assert "Traceback" not in child.stderr.read()
    assert len(lines) >= num_before
    return [line.strip() for line in lines if line.endswith("\n")]


def test_a_gateway_that_is_killed_again_and_again_loses_no_answered_call_and_doubles_none(tmp_path) -> None:
    rng = Random(1)
    answered: list[str] = []
    for number in range(NUM_KILLS):
        answered += answered_before_kill(tmp_path, f"round{number}", rng.randrange(1, 3000))
    with opened(tmp_path) as last:
        last.writer.round()
    stored = Counter(row["request_id"] for row in rows_of(last.url))
    assert [request_id for request_id in answered if request_id not in stored] == []
    assert [request_id for request_id, num_rows in stored.items() if num_rows != 1] == []
    # a call may be written down and its last byte not sent: one for each kill, since one call was at its end
    assert len(stored) - len(answered) <= NUM_KILLS
    assert last.segments == []
