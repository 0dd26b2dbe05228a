"""Percentiles by one definition, everywhere in the project."""

from __future__ import annotations

import math
from collections.abc import Sequence


def percentile(values: Sequence[float], percent: float) -> float:
    """The value below which `percent` of a sample lies, linearly interpolated between the two nearest ranks.

    With values sorted and numbered from 0 to n - 1, the percentile stands at rank (n - 1) * percent / 100.
    Source: Hyndman and Fan 1996, definition 7; the default of NumPy, R and Excel. Raises ValueError when empty.
    """
    return percentile_of_sorted(sorted(values), percent)


def percentile_of_sorted(values: Sequence[float], percent: float) -> float:
    """The same for a sample that is sorted already: several percentiles of one sample cost one sort."""
    if not values:
        raise ValueError("a percentile of no values")
    if not 0 <= percent <= 100:
        raise ValueError(f"a percentile lies between 0 and 100, not {percent}")
    rank = (len(values) - 1) * percent / 100
    below = math.floor(rank)
    above = min(below + 1, len(values) - 1)
    # Written as a step from the lower value, so that equal neighbours give that value exactly.
    return values[below] + (values[above] - values[below]) * (rank - below)


def num_values_needed(percent: float, *, confidence: float = 0.95) -> int:
    """Fewest independent values of which the largest lies above the percentile with this confidence.

    1 - (percent / 100) ** n >= confidence. With fewer, nothing in the sample bounds the percentile from above.
    Source: Wilks 1941, Determination of sample sizes for setting tolerance limits.
    """
    if not 0 < percent < 100:
        raise ValueError(f"a percentile that a sample can tell lies between 0 and 100, not {percent}")
    return math.ceil(math.log(1 - confidence) / math.log(percent / 100) - 1e-9)
