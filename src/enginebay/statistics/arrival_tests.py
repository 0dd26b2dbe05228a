"""Whether arrivals are what they claim, as p-values: below a bound chosen before, they are not. Needs scipy."""

from __future__ import annotations

import math
from collections.abc import Sequence

from enginebay.statistics.dispersion import autocorrelation, index_of_dispersion
from enginebay.statistics.scipy_stats import scipy_stats


def dispersion_p_value(counts: Sequence[float]) -> float:
    """How likely counts as unevenly, or as evenly, spread as these are where arrivals are a Poisson process.

    Two-sided chi-squared test of the index of dispersion; mean counts of 5 and more. Source: Cox and Lewis 1966, The
    Statistical Analysis of Series of Events, section 6.3. Raises ValueError below two windows or without arrivals.
    """
    chi2 = scipy_stats().chi2
    num_free = len(counts) - 1
    statistic = index_of_dispersion(counts) * num_free
    below = float(chi2.cdf(statistic, num_free))
    return 2 * min(below, 1 - below)


def independence_p_value(gaps: Sequence[float], *, num_lags: int) -> float:
    """How likely autocorrelations like these are where each gap knows nothing of the ones before.

    Portmanteau test over the lags 1 to `num_lags`, on the ranks of the gaps: what lies in their distribution, a heavy
    tail above all, does not matter. Source: Ljung and Box 1978, Biometrika 65. Raises ValueError for too few gaps.
    """
    stats = scipy_stats()
    num = len(gaps)
    ranks: list[float] = stats.rankdata(gaps).tolist()
    squares = (autocorrelation(ranks, lag=lag) ** 2 / (num - lag) for lag in range(1, num_lags + 1))
    return float(stats.chi2.sf(num * (num + 2) * math.fsum(squares), num_lags))
