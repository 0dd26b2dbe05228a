"""A folder of results belongs to the load test that filled it: another one goes there only if it is told to."""

from __future__ import annotations

from pathlib import Path

from enginebay.errors import LoadTestError, ResultExists

RESULT, CAPACITY = "result.json", "capacity.json"
"""What a load test and a search leave. Both may stand in one folder: neither touches the files of the other."""


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
