"""Whether arrivals look as they claim: how bunched they are, and whether gaps remember each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np


def gaps_between(instants: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(instants)]


def counts_per_window(instants: Sequence[float], window_s: float) -> list[int]:
    """Number of instants in each full window from 0 on; what lies after the last full window is left out."""
    if window_s <= 0:
        raise ValueError(f"a window is longer than 0, not {window_s}")
    num_windows = math.floor(max(instants, default=0.0) / window_s)
    counts = [0] * num_windows
    for instant in instants:
        if instant >= 0 and (window := math.floor(instant / window_s)) < num_windows:
            counts[window] += 1
    return counts


def index_of_dispersion(counts: Sequence[float]) -> float:
    """Variance of counts over their mean: 0 for a constant rate, 1 for a Poisson process, more for bursts.

    The variance is the unbiased one (n - 1). Raises ValueError below two windows or without any arrival.
    """
    if len(counts) < 2:
        raise ValueError("dispersion needs at least two windows")
    mean = math.fsum(counts) / len(counts)
    if mean == 0:
        raise ValueError("dispersion of no arrivals")
    return math.fsum((count - mean) ** 2 for count in counts) / (len(counts) - 1) / mean


def coefficient_of_variation(values: Sequence[float]) -> float:
    """Standard deviation over mean: 0 for equal gaps, 1 for exponential ones."""
    if len(values) < 2:
        raise ValueError("variation needs at least two values")
    mean = math.fsum(values) / len(values)
    if mean == 0:
        raise ValueError("variation about a mean of 0")
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)) / mean


def lag_1_autocorrelation(values: Sequence[float]) -> float:
    """Correlation of each value with the next: about 0 for independent gaps, near 1 for repeated ones."""
    return autocorrelation(values, lag=1)


def autocorrelation(values: Sequence[float], *, lag: int) -> float:
    """Correlation of each value with the one `lag` places later.

    0 by definition where all values are equal: such a series carries no memory that could be told. Raises ValueError
    where fewer than two pairs are that far apart.
    """
    if lag < 1 or len(values) < lag + 2:
        raise ValueError(f"autocorrelation at lag {lag} needs at least {lag + 2} values")
    series = np.asarray(values, dtype=np.float64)
    centred = series - series.mean()
    variance = float(centred @ centred)
    # In floating point the mean of equal values may miss them by a rounding.
    if variance <= len(values) * (1e-12 * float(np.abs(series).max())) ** 2:
        return 0.0
    return float(centred[:-lag] @ centred[lag:]) / variance
