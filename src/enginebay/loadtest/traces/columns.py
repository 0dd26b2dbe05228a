"""Rows of a CSV file, by the names of its columns."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from enginebay.errors import LoadTestError

Row = dict[str, str]


def rows_of(path: Path, columns: Sequence[str], *, what: str) -> Iterator[tuple[int, Row]]:
    """(line number, row). Raises LoadTestError without one of `columns`; `what`: the format, for that error.

    A line that is cut short has empty texts.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
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
    number = number_in(row, column, place=place)
    if number < 0 or number != int(number):
        raise LoadTestError(f"{place}: {column!r} is {row[column]!r}, not a whole number of 0 or more")
    return int(number)


def number_in(row: Row, column: str, *, place: str) -> float:
    """A finite one: `nan` and `inf` are no numbers of anything."""
    text = row[column]
    try:
        number = float(text)
    except ValueError as error:
        raise LoadTestError(f"{place}: {column!r} is {text!r}, not a number") from error
    if not math.isfinite(number):
        raise LoadTestError(f"{place}: {column!r} is {text!r}, not a number")
    return number
