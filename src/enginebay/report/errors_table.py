"""What failed, counted by kind and message."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from enginebay.report.data import Report

MAX_ROWS = 50
MAX_MESSAGE = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRow:
    run: str
    error_class: str
    message: str
    num_requests: int


def error_rows(report: Report) -> list[ErrorRow]:
    """Most frequent first; at most `MAX_ROWS`, since a message may carry something of each request."""
    counted = Counter(
        (f"{run.name}, {run.run.load}", record.error_class or "", (record.error_message or "")[:MAX_MESSAGE])
        for run in report.runs
        for record in run.records
        if record.is_error
    )
    return [
        ErrorRow(run=run, error_class=error_class, message=message, num_requests=num_requests)
        for (run, error_class, message), num_requests in counted.most_common(MAX_ROWS)
    ]
