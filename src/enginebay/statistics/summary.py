"""The five figures that stand for a distribution."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from enginebay.statistics.percentiles import percentile_of_sorted


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    num_values: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


def summarize(values: Iterable[float | None]) -> Summary | None:
    """Summary of what is there; None where nothing is (a latency that no request had is not zero)."""
    present = sorted(value for value in values if value is not None)
    if not present:
        return None
    return Summary(
        num_values=len(present),
        mean=math.fsum(present) / len(present),
        p50=percentile_of_sorted(present, 50),
        p90=percentile_of_sorted(present, 90),
        p95=percentile_of_sorted(present, 95),
        p99=percentile_of_sorted(present, 99),
    )
