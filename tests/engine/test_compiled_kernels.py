"""What is kept of compiled kernels: versions in use stay, whoever looks for one finds it whole, and old ones go."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from enginebay.engine.kernels.compiled import UNUSED_AFTER_S, is_there, nothing_is_removed, remove_unused

NOW = 2_000_000_000.0
LONG_AGO, LATELY = NOW - UNUSED_AFTER_S - 1, NOW - UNUSED_AFTER_S + 1


def version(folder: Path, name: str, *, used_at: float) -> Path:
    library = folder / name / "enginebay_kernels.so"
    library.parent.mkdir(parents=True)
    library.write_bytes(b"kernels")
    for path in (library, library.parent):
        os.utime(path, (used_at, used_at))
    return library


def test_versions_that_nobody_used_for_long_are_removed_and_others_stay(tmp_path: Path):
    old = version(tmp_path, "old", used_at=LONG_AGO)
    kept = version(tmp_path, "kept", used_at=LATELY)
    assert remove_unused(tmp_path, now=NOW) == ["old"]
    assert not old.parent.exists()
    assert kept.read_bytes() == b"kernels"


def test_looking_for_a_library_counts_as_using_it(tmp_path: Path):
    library = version(tmp_path, "old", used_at=LONG_AGO)
    assert is_there(library)
    assert remove_unused(tmp_path, now=library.stat().st_mtime + UNUSED_AFTER_S - 1) == []
    assert not is_there(tmp_path / "other" / library.name)


def test_what_a_killed_compiler_left_is_removed_too_and_what_one_is_making_stays(tmp_path: Path):
    for name, used_at in (("abc.123", LONG_AGO), ("abc.124", LATELY)):
        version(tmp_path, name, used_at=used_at).rename(tmp_path / name / "enginebay_kernels.o")
        os.utime(tmp_path / name, (used_at, used_at))
    assert remove_unused(tmp_path, now=NOW) == ["abc.123"]
    assert [path.name for path in tmp_path.iterdir()] == ["abc.124"]


def test_nothing_is_removed_while_somebody_looks_and_two_may_look(tmp_path: Path):
    library = version(tmp_path, "old", used_at=LONG_AGO)
    with nothing_is_removed(tmp_path):
        with nothing_is_removed(tmp_path):
            assert remove_unused(tmp_path, now=NOW) == []
        assert remove_unused(tmp_path, now=NOW) == []
        assert library.exists()
    assert remove_unused(tmp_path, now=NOW) == ["old"]


def test_one_who_looks_waits_for_him_who_removes_and_finds_the_library_whole_or_not_at_all(tmp_path: Path):
    """The other process holds the folder, and lets it go when it is told to."""
    version(tmp_path, "old", used_at=LONG_AGO)
    holding = """
import sys
from pathlib import Path
import enginebay.engine.kernels.compiled as compiled
removed = compiled._removed
def slowly(folder, *, now):
    print("held", flush=True)
    sys.stdin.readline()
    return removed(folder, now=now)
compiled._removed = slowly
print(compiled.remove_unused(Path(sys.argv[1]), now=float(sys.argv[2])), flush=True)
"""
    looking = """
import sys
from pathlib import Path
from enginebay.engine.kernels.compiled import is_there, nothing_is_removed
print("looking", flush=True)
with nothing_is_removed(Path(sys.argv[1])):
    print(is_there(Path(sys.argv[1]) / "old" / "enginebay_kernels.so"), flush=True)
"""
    remover = process(holding, tmp_path, NOW)
    assert line_of(remover) == "held"
    looker = process(looking, tmp_path)
    assert line_of(looker) == "looking"
    with pytest.raises(subprocess.TimeoutExpired):
        looker.wait(0.2)
    said, _ = remover.communicate("\n", timeout=30)
    assert said.strip() == "['old']"
    said, _ = looker.communicate(timeout=30)
    assert said.strip() == "False"


def process(text: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", text, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_folder_that_cannot_be_read_is_left_alone(tmp_path: Path):
    assert remove_unused(tmp_path / "nothing", now=NOW) == []


def test_a_library_of_another_user_serves_though_it_cannot_be_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    library = version(tmp_path, "theirs", used_at=LONG_AGO)

    def utime(path: Path) -> None:
        raise PermissionError(path)

    monkeypatch.setattr("enginebay.engine.kernels.compiled.os.utime", utime)
    assert is_there(library)


def test_links_are_not_followed(tmp_path: Path):
    elsewhere = version(tmp_path / "elsewhere", "old", used_at=LONG_AGO)
    folder = tmp_path / "kernels"
    folder.mkdir()
    (folder / "linked").symlink_to(elsewhere.parent)
    assert remove_unused(folder, now=NOW) == []
    assert elsewhere.exists()
