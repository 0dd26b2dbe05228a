"""BurstGPT's CSV: `Timestamp` in seconds, `Request tokens`, `Response tokens`; later files have more columns.

A request with no response token failed: it is left out, and counted. Source: github.com/HPMLL/BurstGPT, README.
"""

from __future__ import annotations

from pathlib import Path

from enginebay.loadtest.traces.columns import count_in, number_in, rows_of
from enginebay.loadtest.traces.trace import Trace, TracedRequest, from_zero

COLUMNS = ("Timestamp", "Request tokens", "Response tokens")


def read_burstgpt(path: Path) -> Trace:
    requests: list[TracedRequest] = []
    num_failed = 0
    for number, row in rows_of(path, COLUMNS, what="trace of BurstGPT"):
        place = f"{path}:{number}"
        num_input, num_output = (count_in(row, column, place=place) for column in COLUMNS[1:])
        if num_input and num_output:
            at = number_in(row, COLUMNS[0], place=place)
            requests.append(TracedRequest(at=at, num_input_tokens=num_input, num_output_tokens=num_output))
        else:
            num_failed += 1
    return Trace(name=path.name, requests=from_zero(requests), num_left_out=num_failed)
