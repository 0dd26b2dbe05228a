"""What a simulated engine counts. A wire publishes it under its engine's own names and with its own buckets."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Literal, get_args

Observed = Literal[
    "ttft_s", "itl_s", "tpot_s", "e2e_s", "queue_s", "inference_s", "prefill_s", "decode_s", "prompt_tokens",
    "output_tokens", "max_tokens", "step_tokens", "batch_size", "num_preemptions", "prefill_computed_tokens",
]  # fmt: skip
"""itl_s: gaps between tokens. tpot_s: the mean gap of one request. inference_s: from the first step to the last token.

step_tokens and batch_size are of each step; the rest of each request, when it ends.
"""
FinishReason = Literal["stop", "length", "abort", "error"]


class Histogram:
    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """bounds: upper bounds, ascending, without infinity."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """Not cumulative; the last is of what exceeds every bound."""
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        return sum(self.counts)


class EngineMetrics:
    def __init__(self) -> None:
        self.num_finished: dict[FinishReason, int] = {"stop": 0, "length": 0, "abort": 0, "error": 0}
        self.num_prompt_tokens = 0
        """Of requests whose prompt was computed."""
        self.num_output_tokens = 0
        self.num_preemptions = 0
        self.num_steps = 0
        self.num_rejected = 0
        self.num_prefix_queries = 0
        """Prompt tokens that were looked up in the prefix cache."""
        self.num_prefix_hits = 0
        self._histograms: dict[Observed, list[Histogram]] = {name: [] for name in get_args(Observed)}

    def track(self, observed: Observed, bounds: Sequence[float]) -> Histogram:
        """A histogram that fills from now on. What nobody tracks costs nothing."""
        histogram = Histogram(bounds)
        self._histograms[observed].append(histogram)
        return histogram

    def observe(self, observed: Observed, value: float) -> None:
        for histogram in self._histograms[observed]:
            histogram.observe(value)
