"""What is compared: up to eight figures of a run, each with the direction that is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enginebay.loadtest.metrics import Distribution, Metrics
from enginebay.statistics.percentiles import num_values_needed

Better = Literal["more", "less"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    metric: str
    """A field of `Metrics`, or a field and a percentile: `ttft_scheduled_s.p50`."""
    title: str
    better: Better
    least_values: int = 1
    """Fewer do not tell it: a 99th percentile of fifty requests is the slowest of them."""

    def value(self, metrics: Metrics) -> float | None:
        """None where the run does not have it, or where its logarithm would mean nothing."""
        found = self._found(metrics)
        if isinstance(found, Distribution):
            percentile: float = getattr(found, self.metric.partition(".")[2])
            return None if self.is_too_few(metrics) else percentile or None
        return found or None

    def is_too_few(self, metrics: Metrics) -> bool:
        found = self._found(metrics)
        return isinstance(found, Distribution) and found.num_values < self.least_values

    def _found(self, metrics: Metrics) -> float | Distribution | None:
        return getattr(metrics, self.metric.partition(".")[0])


def _latency(metric: str, title: str) -> Figure:
    percent = float(metric.partition(".p")[2])
    return Figure(metric=metric, title=title, better="less", least_values=num_values_needed(percent))


TAILS = (99, 95, 90)
"""Percentiles that a tail is told by, the best first."""
_ORDINALS = {99: "99th", 95: "95th", 90: "90th"}


def _figures(tail: int) -> tuple[Figure, ...]:
    return (
        Figure(metric="output_tokens_per_s", title="output tokens per second", better="more"),
        Figure(metric="requests_per_s", title="requests per second", better="more"),
        # From the scheduled instant: a queue before the engine is part of the wait, whoever keeps it.
        _latency("ttft_scheduled_s.p50", "median wait for the first token"),
        _latency(f"ttft_scheduled_s.p{tail}", f"{_ORDINALS[tail]} percentile of the wait for the first token"),
        _latency("tpot_s.p50", "median time of a further token"),
        _latency("e2e_s.p50", "median time of an answer"),
        _latency(f"e2e_s.p{tail}", f"{_ORDINALS[tail]} percentile of the time of an answer"),
    )


GOODPUT = Figure(metric="goodput_rps", title="good requests per second", better="more")
FIGURES = _figures(TAILS[0])
TITLES = {figure.metric: figure.title for figure in (*(f for tail in TAILS for f in _figures(tail)), GOODPUT)}


def figures(*, has_levels: bool, fewest_values: int) -> tuple[Figure, ...]:
    """Without service levels every request is good, and goodput says nothing that the rate of requests does not.

    fewest_values: requests of the shortest run that counts. The tail is told by the best percentile that it can tell;
    where it can tell none, by the 99th, which then stays undecided.
    """
    told = [tail for tail in TAILS if fewest_values >= num_values_needed(tail)]
    chosen = _figures(told[0] if told else TAILS[0])
    return (*chosen, GOODPUT) if has_levels else chosen
