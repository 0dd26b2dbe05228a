"""Every request of a report for its page: a table of columns for each run, and the times of all tokens packed apart.

Ten thousand requests of sixty tokens make two megabytes. Token times are packed in blocks, so that a click unpacks one.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Sequence
from typing import Any

from enginebay.loadtest.metrics import output_tokens
from enginebay.loadtest.records import Arrival, Record
from enginebay.report.data import Report, RunReport
from enginebay.report.palettes import NUM_RUN_COLORS

TICKS_PER_S = 10_000
"""Token times are whole tenths of a millisecond."""
REQUESTS_PER_BLOCK = 250
MAX_ARRIVALS = 3_000_000
"""Of the whole page; of a larger report the later runs go without token times, and the page says so."""

COLUMNS = ("index", "scheduled", "sent", "first", "last", "ended", "input", "output", "cached", "finish")
"""`finish`: an index into the run's `endings`; instants in seconds from the start of the run."""


def requests_data(report: Report) -> list[dict[str, Any]]:
    """Of each run with records, in the order of the report."""
    tables: list[dict[str, Any]] = []
    num_left = MAX_ARRIVALS
    for load in report.loads:
        for run in load.runs:
            if run.records:
                num_arrivals = sum(len(record.arrivals) for record in run.records)
                num_left -= num_arrivals
                tables.append(_run_table(run, load_name=str(load.load), has_times=num_left >= 0))
    return tables


def _run_table(run: RunReport, *, load_name: str, has_times: bool) -> dict[str, Any]:
    records = sorted(run.records, key=lambda record: record.index)
    endings = list(dict.fromkeys(map(_ending, records)))
    return {
        "name": f"{run.name}, {load_name}",
        "color": f"run{run.color_index % NUM_RUN_COLORS}",
        "valid": run.run.valid,
        "simulated": run.run.simulated,
        "endings": endings,
        "rows": [_row(record, endings) for record in records],
        "blocks": list(_blocks(records)) if has_times else [],
        "per_block": REQUESTS_PER_BLOCK,
    }


def _row(record: Record, endings: Sequence[str]) -> list[float | int | None]:
    instants = (record.scheduled_at, record.sent_at, record.first_token_at, record.last_token_at, record.ended_at)
    return [
        record.index,
        *(None if at is None else round(at, 4) for at in instants),
        record.num_prompt_tokens if record.num_prompt_tokens is not None else record.num_planned_prompt_tokens,
        output_tokens(record),
        record.num_cached_tokens,
        endings.index(_ending(record)),
    ]


def _ending(record: Record) -> str:
    if record.error_class is None:
        return record.finish_reason or "finished"
    return f"{record.error_class}: {(record.error_message or '')[:160]}"


def _blocks(records: Sequence[Record]) -> Iterable[str]:
    for start in range(0, len(records), REQUESTS_PER_BLOCK):
        times = [_packed(record.arrivals, record.sent_at) for record in records[start : start + REQUESTS_PER_BLOCK]]
        packed = gzip.compress(json.dumps(times, separators=(",", ":")).encode(), mtime=0)
        yield base64.b64encode(packed).decode("ascii")


def _packed(arrivals: Sequence[Arrival], sent_at: float) -> list[int]:
    """Ticks since the arrival before (the first: since sending); a chunk of n > 1 tokens is followed by -n."""
    packed: list[int] = []
    ticks = 0
    for arrival in arrivals:
        now = max(ticks, round((arrival.at - sent_at) * TICKS_PER_S))
        packed.append(now - ticks)
        ticks = now
        if arrival.num_tokens > 1:
            packed.append(-arrival.num_tokens)
    return packed
