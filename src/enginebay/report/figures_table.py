"""The rows of the tables: which figures are shown, in which words and units. One list for every form of report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Literal

from enginebay.loadtest.metrics import Distribution, Metrics
from enginebay.report.data import Side
from enginebay.report.numbers import count, duration, number, share

Better = Literal["more", "less", ""]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    title: str
    note: str
    value: Callable[[Metrics], float | None]
    shown: Callable[[float | None], str]
    better: Better = ""
    has_ratio: bool = True

    def text(self, metrics: Metrics) -> str:
        return self.shown(self.value(metrics))

    def values(self, side: Side) -> list[float]:
        """Of the starts that have one."""
        return [value for metrics in side.metrics if (value := self.value(metrics)) is not None]

    def median(self, side: Side) -> float | None:
        values = self.values(side)
        return median(values) if values else None

    def side_text(self, side: Side) -> str:
        """Of several starts the median."""
        return self.shown(self.median(side))

    def spread(self, side: Side) -> str:
        """From the lowest start to the highest; empty where they look alike."""
        values = self.values(side)
        ends = (self.shown(min(values)), self.shown(max(values))) if len(values) > 1 else ("", "")
        return f"{ends[0]} to {ends[1]}" if ends[0] != ends[1] else ""

    def side_ratio(self, side: Side, first: Side) -> float | None:
        """Of the medians; None where they may not be compared, either is missing or the first is zero."""
        value, base = self.median(side), self.median(first)
        if not self.has_ratio or not side.has_ratio_to(first) or value is None or not base:
            return None
        return value / base

    def ratio(self, metrics: Metrics, first: Metrics) -> float | None:
        """To the first run; None where either is missing or the first is zero."""
        value, base = self.value(metrics), self.value(first)
        return None if not self.has_ratio or value is None or not base else value / base


def _percentile(name: str, percentile: str) -> Callable[[Metrics], float | None]:
    def value(metrics: Metrics) -> float | None:
        distribution: Distribution | None = getattr(metrics, name)
        return None if distribution is None else getattr(distribution, percentile)

    return value


def _latency(title: str, name: str, percentile: str, note: str) -> Row:
    return Row(title=title, note=note, value=_percentile(name, percentile), shown=duration, better="less")


HEADLINE = (
    Row(
        title="Output tokens per second",
        note="of finished requests, over the whole run",
        value=lambda metrics: metrics.output_tokens_per_s,
        shown=number,
        better="more",
    ),
    Row(
        title="Requests per second",
        note="finished, over the whole run",
        value=lambda metrics: metrics.requests_per_s,
        shown=number,
        better="more",
    ),
    _latency("First token, median", "ttft_s", "p50", "from sending to the first token"),
    _latency("First token, p95", "ttft_s", "p95", "95 of 100 requests had it sooner"),
    _latency("Per output token, median", "tpot_s", "p50", "after the first"),
    _latency("Per output token, p95", "tpot_s", "p95", "after the first"),
    _latency("Whole answer, median", "e2e_s", "p50", "from sending to the last token"),
    _latency("Whole answer, p95", "e2e_s", "p95", "from sending to the last token"),
    Row(
        title="Duration",
        note="first scheduled instant to last token",
        value=lambda metrics: metrics.duration_s,
        shown=duration,
        better="less",
    ),
    Row(
        title="Errors",
        note="requests that failed",
        value=lambda metrics: float(metrics.num_errors),
        shown=count,
        better="less",
        has_ratio=False,
    ),
)

GOODPUT = Row(
    title="Good requests per second",
    note="within every service level",
    value=lambda metrics: metrics.goodput_rps,
    shown=number,
    better="more",
)

POLICY = (
    Row(
        title="Padding",
        note="token positions that were computed only to fill up a batch",
        value=lambda metrics: metrics.padding_ratio,
        shown=share,
        better="less",
        has_ratio=False,
    ),
    Row(
        title="Idle slots",
        note="places in the batch that did no useful work",
        value=lambda metrics: metrics.idle_slot_ratio,
        shown=share,
        better="less",
        has_ratio=False,
    ),
    Row(
        title="Time outside the model",
        note="of the time in which the engine had work",
        value=lambda metrics: metrics.outside_model_ratio,
        shown=share,
        better="less",
        has_ratio=False,
    ),
    Row(
        title="Engine without work",
        note="of the whole run",
        value=lambda metrics: metrics.engine_idle_ratio,
        shown=share,
        better="less",
        has_ratio=False,
    ),
    Row(
        title="Wait for the batch",
        note="mean, from arrival in the engine to a place in the batch",
        value=lambda metrics: metrics.batch_wait_s,
        shown=duration,
        better="less",
        has_ratio=False,
    ),
    Row(
        title="Mean batch",
        note="requests that a step did useful work for",
        value=lambda metrics: metrics.mean_batch_size,
        shown=number,
        has_ratio=False,
    ),
    Row(
        title="Steps",
        note="passes through the model",
        value=lambda metrics: metrics.num_steps,
        shown=count,
        has_ratio=False,
    ),
)

DISTRIBUTIONS = (
    ("ttft_s", "Time to first token", "from sending to the first chunk with a token", duration),
    ("ttft_scheduled_s", "Time to first token, from schedule", "shows a client that falls behind", duration),
    ("tpot_s", "Time per output token", "(last − first token) / (tokens − 1), one value a request", duration),
    ("itl_s", "Gap between tokens", "tokens of one chunk share its arrival", duration),
    ("chunk_gap_s", "Gap between chunks", "what a reader of the stream sees", duration),
    ("e2e_s", "Whole answer", "from sending to the last token", duration),
    ("send_lag_s", "Client's own delay", "from the scheduled instant to sending", duration),
    ("prompt_lengths", "Tokens of a prompt", "as the engine counts them", number),
    ("planned_output_lengths", "Tokens asked for", "at most", number),
    ("output_lengths", "Tokens of an answer", "fewer than asked for where the model ended before", number),
)
"""Name, title, note, and how its values are shown."""
COUNTS = (
    ("num_requests", "Requests answered or failed"),
    ("num_errors", "Errors"),
    ("num_unfinished", "Unfinished when stopped"),
    ("num_prompt_tokens", "Prompt tokens"),
    ("num_output_tokens", "Output tokens, counted by the engine"),
    ("num_capped_outputs", "Outputs as long as asked for"),
    ("num_retokenized_tokens", "Output tokens, text encoded again"),
    ("num_token_mismatches", "Answers where these two differ"),
    ("num_uncounted_chunks", "Chunks whose tokens nobody counted"),
)
PERCENTILES = ("mean", "p50", "p90", "p95", "p99")


def headline_rows(metrics: list[Metrics], *, has_levels: bool) -> tuple[Row, ...]:
    return (*HEADLINE[:2], GOODPUT, *HEADLINE[2:]) if has_levels else HEADLINE


def policy_rows(metrics: list[Metrics]) -> tuple[Row, ...]:
    """Those that at least one engine told."""
    return tuple(row for row in POLICY if any(row.value(item) is not None for item in metrics))
