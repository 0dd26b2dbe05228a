"""A folder of results belongs to the load test that filled it: another one goes there only if it is told to."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from enginebay.errors import FolderInUse, LoadTestError, ResultExists

RESULT, CAPACITY = "result.json", "capacity.json"
"""What a load test and a search leave. Both may stand in one folder: neither touches the files of the other."""
CLAIM = ".in-use"
"""Locked, and with the number of its process in it, for as long as a load test works in the folder."""
MAX_ATTEMPTS = 100
"""To have the claim of a folder that others come to and leave meanwhile."""


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Keep every other load test out of the folder. Makes it; where nothing came of it, it is gone again.

    The system drops the lock of a process that was killed. Raises FolderInUse where another one has it.
    """
    path = folder / CLAIM
    descriptor = _locked(path)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        yield
    finally:
        with suppress(OSError):
            path.unlink()  # while it is locked: who opened it before looks whether it is still the one in the folder
            folder.rmdir()  # fails where results are
        os.close(descriptor)


def _locked(path: Path) -> int:
    """The descriptor of the one claim that lies in the folder."""
    for _ in range(MAX_ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except (FileNotFoundError, FileExistsError) as error:
            if path.parent.is_file():
                raise LoadTestError(f"{path.parent} is a file: name a folder with --out") from error
            continue  # whoever left has just taken the empty folder away
        except OSError as error:
            raise LoadTestError(f"{path}: cannot be written: {error.strerror}") from error
        try:
            _lock(descriptor, path)
            if _is_at(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise FolderInUse(f"{path.parent}: others come and go in this folder: measure into another one (--out)")


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        process = os.read(descriptor, 20).decode("ascii", "replace") or "that has just begun"
        raise FolderInUse(
            f"{path.parent}: another `enginebay bench` (process {process}) measures into this folder: wait until it "
            "is done, or measure into another one (--out)"
        ) from error
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be locked: {error.strerror}") from error


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def demand_free(folder: Path, file: str) -> None:
    """file: what is about to be written. Raises ResultExists where an earlier one would be lost."""
    if (folder / file).exists():
        raise ResultExists(
            f"{folder / file} is there from an earlier measurement, which would be lost: measure into another folder "
            "(--out), go on with it (--resume), or replace it (--overwrite)"
        )


def make_free(folder: Path, file: str) -> None:
    """Remove what is to be replaced, before anything that belongs to it is: never half of one and half of another."""
    try:
        (folder / file).unlink(missing_ok=True)
    except OSError as error:
        raise LoadTestError(f"{folder / file}: cannot be removed: {error.strerror}") from error


def holds_other(folder: Path, file: str) -> bool:
    """Whether something stays that was measured with what lies in the folder besides, such as its config."""
    return any((folder / name).exists() for name in (RESULT, CAPACITY) if name != file)
