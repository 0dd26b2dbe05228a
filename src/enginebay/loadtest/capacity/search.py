"""Which rate to try next, and when enough is known. No I/O, no clock: the probes are somebody else's.

Until a rate was borne and another was not, rates are a factor apart. Then the next one is drawn towards where the
capacity most likely is: a probe tells most there.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from enginebay.loadtest.capacity.posterior import Observation, Posterior, posterior_of

GROWTH = 4.0
BEYOND = 16.0
"""The capacity is looked for up to so many times beyond the rates that were tried, on a side where none was found."""
LITTLE_BEYOND = 1.5
"""The same once a rate was borne and another was not: they may have been so by chance, but not by far."""
SPREAD = (0.5, 0.3, 0.7)
"""Quantiles of what is known at which the following probes are made, in turn."""


class CapacityEstimate(msgspec.Struct, frozen=True, kw_only=True):
    rate_rps: float
    """The median of what is known."""
    interval_rps: tuple[float, float]
    confidence: float

    @property
    def half_width_ratio(self) -> float:
        """Half the interval over the estimate."""
        low, high = self.interval_rps
        return (high - low) / 2 / self.rate_rps


class CapacitySearch:
    def __init__(
        self, *, start_rps: float, max_probes: int = 12, confidence: float = 0.95, precision: float = 0.0
    ) -> None:
        """precision: the search ends when half of the interval is no more than this share of the capacity."""
        self._start_rps, self._max_probes = start_rps, max_probes
        self._confidence, self._precision = confidence, precision
        self._observations: list[Observation] = []
        self._known: Posterior | None = None

    @property
    def observations(self) -> Sequence[Observation]:
        return tuple(self._observations)

    def observe(self, observation: Observation) -> None:
        self._observations.append(observation)
        self._known = None

    def next_rate(self) -> float | None:
        """In four digits. None when enough is known, or as many probes were made as may be."""
        rate = self._next_rate()
        return None if rate is None else float(f"{rate:.4g}")

    def _next_rate(self) -> float | None:
        if len(self._observations) >= self._max_probes:
            return None
        if not self._observations:
            return self._start_rps
        if not self._borne:
            return self._below(min(self._not_borne))
        if not self._not_borne:
            return max(self._borne) * GROWTH
        if self.estimate.half_width_ratio <= self._precision:
            return None
        num_inside = len(self._observations) - self._num_bracketing
        return self._posterior.quantile(SPREAD[num_inside % len(SPREAD)])

    @property
    def estimate(self) -> CapacityEstimate:
        posterior = self._posterior
        return CapacityEstimate(
            rate_rps=posterior.quantile(0.5),
            interval_rps=posterior.interval(self._confidence),
            confidence=self._confidence,
        )

    def _below(self, rate: float) -> float:
        served = [seen.served_rps for seen in self._observations if seen.served_rps]
        # What was finished under too much is near the most that there is: the capacity lies somewhat below.
        return max(rate / GROWTH**2, min(rate / GROWTH, 0.7 * max(served))) if served else rate / GROWTH

    @property
    def _borne(self) -> list[float]:
        return [seen.rate_rps for seen in self._observations if is_borne(seen)]

    @property
    def _not_borne(self) -> list[float]:
        return [seen.rate_rps for seen in self._observations if not is_borne(seen)]

    @property
    def _num_bracketing(self) -> int:
        kinds = [is_borne(seen) for seen in self._observations]
        return next((number for number, kind in enumerate(kinds) if kind != kinds[0]), len(kinds)) + 1

    @property
    def _posterior(self) -> Posterior:
        if self._known is None:
            rates = [seen.rate_rps for seen in self._observations]
            lowest = min(rates) / (LITTLE_BEYOND if self._borne else BEYOND)
            highest = max(rates) * (LITTLE_BEYOND if self._not_borne else BEYOND)
            self._known = posterior_of(self._observations, lowest_rps=lowest, highest_rps=highest)
        return self._known


def is_borne(observation: Observation) -> bool:
    return not observation.is_saturated and all(misses.is_met for misses in observation.misses.values())
