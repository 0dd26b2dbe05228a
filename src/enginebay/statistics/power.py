"""How many starts it takes to see a difference, or to see that there is none.

Power is that of the t-test: exact for a difference (noncentral t), and for two one-sided tests by the same law on
either side. How much starts scatter is itself known from a few of them only; so power is averaged over what the
scatter may be after so many starts (assurance: O'Hagan, Stevens and Campbell 2005). Without this, a plan made from
three starts falls short in most cases.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from enginebay.statistics.scipy_stats import scipy_stats, student_critical

Floats = NDArray[np.float64]

POWER = 0.8
MOST_STARTS = 1000
FEWEST_STARTS = 3
_SCATTER_QUANTILES = (np.arange(40) + 0.5) / 40


def starts_to_differ(
    difference: float,
    spread: float,
    *,
    level: float,
    is_paired: bool = True,
    spread_degrees_of_freedom: float | None = None,
    power: float = POWER,
) -> int | None:
    """Starts of each side that show a true `difference`, two-sided at `level`, in `power` of all cases.

    spread: standard deviation of one pair's difference (unpaired: root of the sum of both variances).
    spread_degrees_of_freedom: how well it is known; None where it is certain. None is returned above MOST_STARTS.
    """
    spreads = _possible_spreads(spread, spread_degrees_of_freedom)
    return _fewest(lambda num_starts: _power_to_differ(num_starts, difference, spreads, level, is_paired), power)


def starts_to_equate(
    difference: float,
    spread: float,
    *,
    margin: float,
    level: float,
    is_paired: bool = True,
    spread_degrees_of_freedom: float | None = None,
    power: float = POWER,
) -> int | None:
    """Starts of each side that show a true `difference` to lie within ±margin; `level` of each one-sided test."""
    if abs(difference) >= margin:
        return None
    spreads = _possible_spreads(spread, spread_degrees_of_freedom)
    return _fewest(
        lambda num_starts: _power_to_equate(num_starts, difference, margin, spreads, level, is_paired), power
    )


def _power_to_differ(num_starts: int, difference: float, spreads: Floats, level: float, is_paired: bool) -> float:
    stats, degrees = scipy_stats(), _degrees_of_freedom(num_starts, is_paired)
    shift = abs(difference) * math.sqrt(num_starts) / spreads
    shown: Floats = 1 - stats.nct.cdf(student_critical(level / 2, degrees), degrees, shift)
    return float(shown.mean())


def _power_to_equate(
    num_starts: int, difference: float, margin: float, spreads: Floats, level: float, is_paired: bool
) -> float:
    stats, degrees = scipy_stats(), _degrees_of_freedom(num_starts, is_paired)
    critical = student_critical(level, degrees)
    above_lower: Floats = 1 - stats.nct.cdf(critical, degrees, (difference + margin) * math.sqrt(num_starts) / spreads)
    below_upper: Floats = stats.nct.cdf(-critical, degrees, (difference - margin) * math.sqrt(num_starts) / spreads)
    return float(np.maximum(0.0, above_lower + below_upper - 1).mean())


def _degrees_of_freedom(num_starts: int, is_paired: bool) -> int:
    return num_starts - 1 if is_paired else 2 * (num_starts - 1)


def _possible_spreads(spread: float, degrees_of_freedom: float | None) -> Floats:
    if degrees_of_freedom is None:
        return np.asarray([spread])
    return spread * np.sqrt(degrees_of_freedom / scipy_stats().chi2.ppf(_SCATTER_QUANTILES, degrees_of_freedom))


def _fewest(power_of: Callable[[int], float], power: float) -> int | None:
    """Smallest number with this power; doubled until it is enough, then halved in between."""
    enough = FEWEST_STARTS
    while power_of(enough) < power:
        enough *= 2
        if enough > MOST_STARTS:
            return None
    too_few = max(FEWEST_STARTS - 1, enough // 2)
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        if power_of(middle) < power:
            too_few = middle
        else:
            enough = middle
    return enough
