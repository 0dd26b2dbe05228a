"""Figures of many streams from a server that stamps its tokens (`ticking_server`), out of the load test's records."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any

from enginebay.loadtest.metrics import chunk_gap_s, ttft_s
from enginebay.loadtest.records import Record
from enginebay.statistics.percentiles import percentile_of_sorted

PERCENTILES = (50, 99)
Percentiles = dict[str, float | None]
"""`p50` and `p99`; None of no values."""


@dataclass(frozen=True, slots=True)
class Stamps:
    """What the server tells of one stream, in seconds of the machine's monotonic clock."""

    received_at: float
    stepped_at: tuple[float, ...]
    """When the step ended that made each token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFigures:
    """Of one run. What has a window counts only streams that begin, or tokens that arrive, within it."""

    num_streams: int
    num_failed: int
    num_wrong: int
    """Answered, but not with exactly the tokens that were asked for, in their order."""
    num_chunks_in_window: int
    min_open_streams: int
    """Fewest at one instant of the window."""
    ttft_s: Percentiles
    """As the load test has it, of streams whose prompt has a step of its own."""
    ttft_in_tick_s: Percentiles
    """Of those whose first token comes last in a tick of all; the wait for it is in it."""
    ttft_in_tick_beyond_engine_s: Percentiles
    """The same without what the server itself took, from a request's arrival to the tick."""
    chunk_gap_s: Percentiles
    lateness_s: Percentiles
    """Of each token: from the end of its step to its arrival."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def has_own_step(index: int) -> bool:
    """Of a request's prompt: every other one's has."""
    return index % 2 == 0


def stamps_of(record: Record) -> Stamps | None:
    """None where it is not exactly the stream that was asked for, token by token and each in a chunk of its own."""
    words = [word.split(":") for word in record.text.split()]
    is_whole = [int(word[0]) for word in words] == list(range(record.max_tokens))
    is_counted = record.num_output_tokens == record.max_tokens == len(record.arrivals)
    if not record.is_finished or not is_whole or not is_counted:
        return None
    return Stamps(int(words[0][2]) / 1e9, tuple(int(word[1]) / 1e9 for word in words))


def stream_figures(
    records: Sequence[Record], *, started_at: float, window: tuple[float, float]
) -> StreamFigures:  # fmt: skip
    """started_at: zero of the records on the clock of the stamps. window: its two ends, on the records' clock."""
    whole = [(record, stamps) for record in records if (stamps := stamps_of(record)) is not None]
    within = [(record, stamps) for record, stamps in whole if window[0] <= record.scheduled_at < window[1]]
    in_tick = [(record, stamps) for record, stamps in within if not has_own_step(record.index)]
    num_failed = sum(not record.is_finished for record in records)
    lateness = sorted(
        started_at + arrival.at - stepped_at
        for record, stamps in whole
        for arrival, stepped_at in zip(record.arrivals, stamps.stepped_at, strict=True)
        if window[0] <= arrival.at < window[1]
    )
    return StreamFigures(
        num_streams=len(records),
        num_failed=num_failed,
        num_wrong=len(records) - num_failed - len(whole),
        num_chunks_in_window=len(lateness),
        min_open_streams=min_open(records, window),
        ttft_s=percentiles(ttft_s(record) or 0.0 for record, _ in within if has_own_step(record.index)),
        ttft_in_tick_s=percentiles(ttft_s(record) or 0.0 for record, _ in in_tick),
        ttft_in_tick_beyond_engine_s=percentiles(
            (ttft_s(record) or 0.0) - (stamps.stepped_at[0] - stamps.received_at) for record, stamps in in_tick
        ),
        chunk_gap_s=percentiles(
            gap
            for record, _ in whole
            for arrival, gap in zip(record.arrivals[1:], chunk_gap_s(record), strict=True)
            if window[0] <= arrival.at < window[1]
        ),
        lateness_s=percentiles(lateness),
    )


def min_open(records: Sequence[Record], window: tuple[float, float]) -> int:
    """Fewest streams that were under way at one instant of the window: each from its sending to its end."""
    before = sum(record.sent_at <= window[0] < record.ended_at for record in records)
    changes = [(record.sent_at, 1) for record in records] + [(record.ended_at, -1) for record in records]
    # A stream that begins at the instant at which another ends counts first.
    steps = [step for at, step in sorted(changes, key=lambda change: (change[0], -change[1])) if at > window[0]]
    num_within = sum(window[0] < at <= window[1] for at, _ in changes)
    return min(accumulate(steps[:num_within], initial=before))


def percentiles(values: Iterable[float]) -> Percentiles:
    ordered = sorted(values)
    return {f"p{percent}": percentile_of_sorted(ordered, percent) if ordered else None for percent in PERCENTILES}


def added(direct: Sequence[StreamFigures], through: Sequence[StreamFigures]) -> dict[str, Percentiles]:
    """Differences of the runs' mean percentiles."""
    names = ("ttft_s", "ttft_in_tick_s", "ttft_in_tick_beyond_engine_s", "chunk_gap_s", "lateness_s")
    return {name: {f"p{percent}": _added(direct, through, name, percent) for percent in PERCENTILES} for name in names}


def _added(
    direct: Sequence[StreamFigures], through: Sequence[StreamFigures], name: str, percent: int
) -> float | None:  # fmt: skip
    bare, behind = _mean(direct, name, percent), _mean(through, name, percent)
    return None if bare is None or behind is None else behind - bare


def _mean(runs: Sequence[StreamFigures], name: str, percent: int) -> float | None:
    values = [getattr(run, name)[f"p{percent}"] for run in runs]
    return None if None in values else sum(values) / len(values)
