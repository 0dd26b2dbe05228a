"""Azure's LLM inference traces: `TIMESTAMP` as date and time, `ContextTokens`, `GeneratedTokens`.

The files of 2023 give ticks of 100 ns and no zone, those of 2024 a zone. Source: github.com/Azure/AzurePublicDataset,
AzureLLMInferenceDataset2023.md and 2024.md.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from enginebay.errors import LoadTestError
from enginebay.loadtest.traces.columns import count_in, rows_of
from enginebay.loadtest.traces.trace import Trace, TracedRequest, from_zero

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
_TICKS = re.compile(r"\.(\d+)")
_EPOCH = datetime(2020, 1, 1, tzinfo=UTC)
"""Near the traces, so that a float keeps their ticks."""


def read_azure(path: Path) -> Trace:
    requests: list[TracedRequest] = []
    num_empty = 0
    for number, row in rows_of(path, COLUMNS, what="LLM inference trace of Azure"):
        place = f"{path}:{number}"
        num_input, num_output = (count_in(row, column, place=place) for column in COLUMNS[1:])
        if num_input and num_output:
            at = _seconds(row["TIMESTAMP"], place)
            requests.append(TracedRequest(at=at, num_input_tokens=num_input, num_output_tokens=num_output))
        else:
            num_empty += 1
    return Trace(name=path.name, requests=from_zero(requests), num_left_out=num_empty)


def _seconds(text: str, place: str) -> float:
    """A fraction of a second may have seven digits, one more than Python's date and time hold."""
    fraction = _TICKS.search(text)
    whole = _TICKS.sub("", text, count=1).strip()
    try:
        moment = datetime.fromisoformat(whole)
    except ValueError as error:
        raise LoadTestError(f"{place}: 'TIMESTAMP' is {text!r}, not a date and time") from error
    elapsed = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH
    return elapsed.total_seconds() + (float(f"0.{fraction[1]}") if fraction else 0.0)
