"""A folder of results has one load test at a time, whatever happens to the others."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from enginebay.errors import FolderInUse, LoadTestError
from enginebay.loadtest.result_folder import CLAIM, claimed

HOLD = """
import sys
from pathlib import Path
from enginebay.loadtest.result_folder import claimed
with claimed(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path):
    """Another process that has the folder `out`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "out")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_another_process_is_told_who_has_the_folder(holder, tmp_path) -> None:
    with pytest.raises(FolderInUse, match=rf"process {holder.pid}\).*--out"), claimed(tmp_path / "out"):
        pytest.fail("it is in use")


def test_a_process_that_was_killed_has_no_folder_any_more(holder, tmp_path) -> None:
    holder.kill()
    holder.wait()
    assert (tmp_path / "out" / CLAIM).exists()
    with claimed(tmp_path / "out"):
        (tmp_path / "out" / "result.json").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result.json"]


def test_of_many_that_come_and_go_never_two_are_inside(tmp_path) -> None:
    """Each takes the lock's file away with it, so that one that opened it before must not believe that it has it."""
    inside: list[int] = []
    most_inside: list[int] = []

    def come_and_go(number: int) -> int:
        num_times = 0
        while num_times < 20:
            try:
                with claimed(tmp_path / "out"):
                    inside.append(number)
                    most_inside.append(len(inside))
                    inside.remove(number)
                    num_times += 1
            except FolderInUse:
                continue
        return num_times

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(come_and_go, range(6))) == 120
    assert set(most_inside) == {1}
    assert not (tmp_path / "out").exists(), "nothing came of it"


def test_what_is_no_folder_cannot_be_measured_into(tmp_path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(LoadTestError, match="is a file: name a folder"), claimed(tmp_path / "out"):
        pytest.fail("there is no such folder")
