"""How far apart two sides are, and how sure that is: a mean of differences with the law of its error.

Values are one for each start of an engine, never for each request: requests of one start share its luck (where its
memory lies, which cores it got), so that many of them say a lot about this start and little about the next.

Below BOOTSTRAP_FROM starts the law of the studentised error is Student's; it assumes that the starts scatter normally.
From there on it is drawn from the values themselves (bootstrap-t): an ordinary percentile bootstrap is too sure of few
values, studentising mends this. Sources: Welch 1947; Efron and Tibshirani 1993, chapters 12 and 16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from enginebay.statistics.scipy_stats import scipy_stats, student_critical, student_tail

Method = Literal["paired t", "paired bootstrap", "Welch t", "unpaired bootstrap"]
Floats = NDArray[np.float64]

BOOTSTRAP_FROM = 20
NUM_RESAMPLES = 9_999
RESAMPLES_PER_HYPOTHESIS = 400
"""So many for each hypothesis leave some twenty beyond the strictest level of Holm's procedure."""
LEAST_ERROR = 1e-9
"""No two engines are told apart to one part in a thousand million: values without any scatter are simulated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    estimate: float
    standard_error: float
    spread: float
    """Standard deviation of what was averaged: differences of pairs; of two sides apart, the root of both variances."""
    degrees_of_freedom: float
    method: Method
    roots: Floats | None = None
    """Of a bootstrap: (resampled mean - mean) / resampled error, ascending. None: Student's law holds."""

    def p_equal(self, value: float = 0.0) -> float:
        """Two-sided: how often chance alone puts the estimate this far from `value`."""
        return self._p_beyond(abs(self._studentised(value)))

    def p_at_most(self, value: float) -> float:
        """One-sided, of the claim that the true difference is at most `value`: small where it is clearly more."""
        return self._p_above(self._studentised(value))

    def p_at_least(self, value: float) -> float:
        """One-sided, of the claim that the true difference is at least `value`: small where it is clearly less."""
        return self._p_below(self._studentised(value))

    def p_outside(self, margin: float) -> float:
        """Of the claim that the true difference lies outside ±margin: two one-sided tests (Schuirmann 1987)."""
        return max(self.p_at_most(-margin), self.p_at_least(margin))

    def interval(self, confidence: float) -> tuple[float, float]:
        """Contains a value exactly when `p_equal` of it is above 1 - confidence."""
        reach = self._critical(1 - confidence) * self.standard_error
        return self.estimate - reach, self.estimate + reach

    def _studentised(self, value: float) -> float:
        return (self.estimate - value) / self.standard_error

    def _p_beyond(self, distance: float) -> float:
        if self.roots is None:
            return 2 * student_tail(distance, self.degrees_of_freedom)
        return _share_of(np.abs(self.roots) >= distance)

    def _p_above(self, root: float) -> float:
        if self.roots is None:
            return student_tail(root, self.degrees_of_freedom)
        return _share_of(self.roots >= root)

    def _p_below(self, root: float) -> float:
        if self.roots is None:
            return student_tail(-root, self.degrees_of_freedom)
        return _share_of(self.roots <= root)

    def _critical(self, level: float) -> float:
        if self.roots is None:
            return student_critical(level / 2, self.degrees_of_freedom)
        # The largest distance whose p is still above the level, by the same count as `_share_of`.
        distances = np.sort(np.abs(self.roots))[::-1]
        num_beyond = max(1, math.floor(level * (len(distances) + 1)))
        return float(distances[num_beyond - 1])


def paired_effect(differences: Sequence[float], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> Effect:
    """differences: one for each pair of starts, two at least. A bootstrap is drawn from `seed`, so that it repeats."""
    values = np.asarray(differences, dtype=np.float64)
    mean, error = float(values.mean()), _error_of_mean(values)
    is_bootstrapped = len(values) >= BOOTSTRAP_FROM
    return Effect(
        estimate=mean,
        standard_error=error,
        spread=error * math.sqrt(len(values)),
        degrees_of_freedom=len(values) - 1,
        method="paired bootstrap" if is_bootstrapped else "paired t",
        roots=_roots((values,), num_resamples=num_resamples, seed=seed) if is_bootstrapped else None,
    )


def unpaired_effect(
    first: Sequence[float], second: Sequence[float], *, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Effect:
    """Of `second` over `first`, two values of each at least; their scatter may differ (Welch)."""
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    errors = _error_of_mean(one), _error_of_mean(other)
    is_bootstrapped = min(len(one), len(other)) >= BOOTSTRAP_FROM
    return Effect(
        estimate=float(other.mean() - one.mean()),
        standard_error=math.hypot(*errors),
        spread=math.hypot(errors[0] * math.sqrt(len(one)), errors[1] * math.sqrt(len(other))),
        degrees_of_freedom=_welch_degrees_of_freedom(*errors, len(one), len(other)),
        method="unpaired bootstrap" if is_bootstrapped else "Welch t",
        roots=_roots((one, other), num_resamples=num_resamples, seed=seed) if is_bootstrapped else None,
    )


def _error_of_mean(values: Floats) -> float:
    return max(LEAST_ERROR, float(values.std(ddof=1)) / math.sqrt(len(values)))


def _welch_degrees_of_freedom(first_error: float, second_error: float, num_first: int, num_second: int) -> float:
    whole = (first_error**2 + second_error**2) ** 2
    return whole / (first_error**4 / (num_first - 1) + second_error**4 / (num_second - 1))


def _roots(sides: tuple[Floats, ...], *, num_resamples: int, seed: int) -> Floats:
    """The error of a resampled mean in units of its own standard error, as often as asked; resampled within sides."""
    observed = _difference_of_means(*(side[np.newaxis, :] for side in sides))[0]

    def root(*resampled: Floats, axis: int = -1) -> Floats:
        variances = sum(side.var(axis=axis, ddof=1) / side.shape[axis] for side in resampled)
        return (_difference_of_means(*resampled, axis=axis) - observed) / np.sqrt(np.maximum(variances, LEAST_ERROR**2))

    drawn = scipy_stats().bootstrap(
        sides,
        root,
        n_resamples=num_resamples,
        batch=max(1, 2_000_000 // sum(map(len, sides))),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return np.sort(drawn.bootstrap_distribution)


def _difference_of_means(first: Floats, second: Floats | None = None, *, axis: int = -1) -> Floats:
    if second is None:
        return first.mean(axis=axis)
    return second.mean(axis=axis) - first.mean(axis=axis)


def _share_of(is_beyond: NDArray[np.bool_]) -> float:
    """What was observed counts as one of the draws, so that no p is 0 (Davison and Hinkley 1997)."""
    return (int(is_beyond.sum()) + 1) / (len(is_beyond) + 1)
