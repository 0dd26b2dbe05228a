"""Rows of a CSV file, by the names of its columns."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from enginebay.errors import LoadTestError

Row = dict[str, str]


def rows_of(path: Path, columns: Sequence[str], *, what: str) -> Iterator[tuple[int, Row]]:
    """(line number, row). Raises LoadTestError without one of `columns`; `what`: the format, for that error."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [column for column in columns if column not in (reader.fieldnames or ())]
            if missing:
                raise LoadTestError(f"{path}: is no {what}: it has no column {', '.join(map(repr, missing))}")
            for row in reader:
                yield reader.line_num, row
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise LoadTestError(f"{path}: is no {what}: {error}") from error


def count_in(row: Row, column: str, *, place: str) -> int:
    """A whole number of 0 or more; some files write it as `12.0`."""
    text = row[column] or ""
    try:
        number = float(text)
    except ValueError as error:
        raise LoadTestError(f"{place}: {column!r} is {text!r}, not a number") from error
    if number < 0 or number != int(number):
        raise LoadTestError(f"{place}: {column!r} is {text!r}, not a whole number of 0 or more")
    return int(number)
