"""Whether values in order go up or down, told from what chance alone would do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from enginebay.statistics.scipy_stats import scipy_stats


@dataclass(frozen=True, slots=True, kw_only=True)
class Trend:
    p_value: float
    """That chance alone orders independent values as much as this (Mann-Kendall, one-sided)."""
    change_ratio: float
    """Mean of the last third / mean of the first third."""


def trend(values: Sequence[float], direction: Literal["up", "down"]) -> Trend:
    """Mann-Kendall's test: Kendall's tau of the values against their order, exact for short series without ties.

    The values must be independent but for a trend: give averages over stretches longer than what they remember.
    Source: Mann 1945; Kendall 1975. Raises ValueError below six values.
    """
    if len(values) < 6:
        raise ValueError("a trend takes at least six values")
    alternative = "greater" if direction == "up" else "less"
    p_value = float(scipy_stats().kendalltau(range(len(values)), values, alternative=alternative).pvalue)
    third = len(values) // 3
    first, last = math.fsum(values[:third]) / third, math.fsum(values[-third:]) / third
    return Trend(
        # All values are equal: there is no order to test.
        p_value=1.0 if math.isnan(p_value) else p_value,
        change_ratio=last / first if first > 0 else math.inf,
    )
