"""What the probes so far say about the capacity: a distribution over the logarithm of the rate.

For each requirement the share of misses is taken to be logistic in log rate around the capacity C of that requirement,

    logit P(miss at rate r) = logit(allowed) + slope * (log r - log C),

with the slope unknown. A probe near C tells by its counts, binomial over the independent observations that it is worth
(`misses`). Far from C, where the curve need not be logistic, and where a probe was given up, only the side counts:
whether C lies above or below, believed but for a small doubt. A system has the least of its requirements' capacities.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from enginebay.loadtest.capacity.misses import Misses

GRID_POINTS = 601
SLOPES = np.geomspace(3.0, 150.0, 24)
"""3: a level that hardly notices the load. 150: a queue that is endless 5 % above the last rate that it bore."""
NEAR = 0.35
"""In log rate, a standard deviation: so far from the capacity a probe's counts weigh 0.6, twice as far 0.14."""
MAX_BORNE_OVER_SERVED = 2.0
DOUBT = 0.02
"""That the side which a probe shows is the wrong one."""
TYPICAL_AUTOCORRELATION_TIME = 3.0
"""Where no probe of a search showed any bursts yet."""
NUM_REFINEMENTS = 3


class Observation(msgspec.Struct, frozen=True, kw_only=True):
    """What one probe showed."""

    rate_rps: float
    misses: Mapping[str, Misses]
    is_saturated: bool = False
    """Given up: more came than was served."""
    served_rps: float | None = None
    """Of a saturated probe: what it finished in the end, the most that there is."""


class Posterior(msgspec.Struct, frozen=True):
    log_rates: np.ndarray
    probabilities: np.ndarray
    """Of the capacity being at each grid point; they sum to 1."""

    def quantile(self, probability: float) -> float:
        """A rate, requests/s."""
        cumulative = np.cumsum(self.probabilities)
        return float(np.exp(np.interp(probability, cumulative - self.probabilities / 2, self.log_rates)))

    def interval(self, confidence: float) -> tuple[float, float]:
        tail = (1 - confidence) / 2
        return self.quantile(tail), self.quantile(1 - tail)


def posterior_of(observations: Sequence[Observation], *, lowest_rps: float, highest_rps: float) -> Posterior:
    """Before any probe every magnitude of the rate between the two is as likely as another."""
    log_rates = np.linspace(np.log(lowest_rps), np.log(highest_rps), GRID_POINTS)
    names = list(dict.fromkeys(name for observation in observations for name in observation.misses))
    above = np.ones(GRID_POINTS)  # probability that the capacity lies above each point
    for name in names:
        above = above * _probability_above(_of_requirement(name, observations, log_rates))
    probabilities = -np.diff(above, append=0.0)
    probabilities *= _below_what_was_served(observations, log_rates)
    return Posterior(log_rates, probabilities / probabilities.sum())


def _probability_above(probabilities: np.ndarray) -> np.ndarray:
    """At each point: that the requirement's capacity is there or above."""
    return np.cumsum(probabilities[::-1])[::-1]


def _of_requirement(name: str, observations: Sequence[Observation], log_rates: np.ndarray) -> np.ndarray:
    seen = [(observation, observation.misses[name]) for observation in observations if name in observation.misses]
    time = _pooled_autocorrelation_time([misses for _, misses in seen])
    tried = sorted(float(np.log(observation.rate_rps)) for observation, _ in seen)
    center: float | None = None
    probabilities = np.full(len(log_rates), 1 / len(log_rates))
    for _ in range(NUM_REFINEMENTS):
        log_likelihood = np.zeros((len(log_rates), len(SLOPES)))
        for observation, misses in seen:
            log_likelihood += _log_likelihood(observation, misses, log_rates, center=center, pooled_time=time)
        joint = np.exp(log_likelihood - log_likelihood.max())
        probabilities = joint.sum(axis=1) / joint.sum()
        median = float(np.interp(0.5, np.cumsum(probabilities), log_rates))
        center = min(max(median, tried[0]), tried[-1])
    return probabilities


def _log_likelihood(
    observation: Observation, misses: Misses, log_rates: np.ndarray, *, center: float | None, pooled_time: float
) -> np.ndarray:
    """(rates, slopes)"""
    log_rate = np.log(observation.rate_rps)
    weight = 0.0 if center is None else float(np.exp(-0.5 * ((log_rate - center) / NEAR) ** 2))
    if observation.is_saturated or misses.ratio > 0.5:
        weight = 0.0
    side = _log_side(misses, log_rate, log_rates, is_saturated=observation.is_saturated)[:, None]
    effective = weight * misses.num_requests / pooled_time
    offset = np.log(misses.allowed_ratio) - np.log1p(-misses.allowed_ratio)
    logits = offset + SLOPES[None, :] * (log_rate - log_rates[:, None])
    counts = misses.ratio * -np.logaddexp(0, -logits) + (1 - misses.ratio) * -np.logaddexp(0, logits)
    return effective * counts + (1 - weight) * side


def _log_side(misses: Misses, log_rate: float, log_rates: np.ndarray, *, is_saturated: bool) -> np.ndarray:
    """Of a probe that is told apart from its level clearly; else nothing."""
    is_above_capacity = misses.ratio > (1.0 if is_saturated else 2.0) * misses.allowed_ratio
    if is_above_capacity:
        return np.where(log_rates < log_rate, np.log(1 - DOUBT), np.log(DOUBT))
    if not is_saturated and misses.ratio < 0.5 * misses.allowed_ratio:
        return np.where(log_rates >= log_rate, np.log(1 - DOUBT), np.log(DOUBT))
    return np.zeros(len(log_rates))


def _below_what_was_served(observations: Sequence[Observation], log_rates: np.ndarray) -> np.ndarray:
    """No rate is borne that is twice what was finished under more than could be borne. Not less: an engine that is
    flooded may finish less than one that is not, and what was begun in the later half is not finished yet."""
    served = [observation.served_rps for observation in observations if observation.served_rps]
    if not served:
        return np.ones(len(log_rates))
    return np.where(log_rates <= np.log(MAX_BORNE_OVER_SERVED * max(served)), 1 - DOUBT, DOUBT)


def _pooled_autocorrelation_time(misses: Sequence[Misses]) -> float:
    """One for all probes: where few missed by chance, bursts look short by the same chance. Were each probe weighed
    by its own, those with few misses would weigh more, and the capacity would come out too high."""
    near = [
        (item.autocorrelation_time, item.num_missed)
        for item in misses
        if item.autocorrelation_time is not None and item.ratio < 0.5
    ]
    if not near:
        return TYPICAL_AUTOCORRELATION_TIME
    times, weights = zip(*near, strict=True)
    return float(np.average(times, weights=weights))
