"""Rates that change with time, as the expected number of arrivals until an instant.

Random arrivals at a changing rate: draw them at rate 1, and put each where the expected number reaches its place. A
Poisson process drawn so is a Poisson process at every instant. Source: Çinlar 1975, Introduction to Stochastic
Processes, section 4.7 (time change).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

from enginebay.loadtest.plan import Step


class ChangingRate(Protocol):
    @property
    def num_expected(self) -> float:
        """Arrivals until the end, on average."""
        ...

    def instant(self, num_arrivals: float) -> float:
        """When `num_arrivals` are expected to have come; at most num_expected."""
        ...


@dataclass(frozen=True, slots=True)
class Ramp:
    """From `start` to `end` arrivals a second, in a straight line."""

    start: float
    end: float
    duration_s: float

    @property
    def num_expected(self) -> float:
        return (self.start + self.end) / 2 * self.duration_s

    def instant(self, num_arrivals: float) -> float:
        # start * t + slope / 2 * t**2 = num_arrivals, solved without subtracting two near numbers
        slope = (self.end - self.start) / self.duration_s
        return 2 * num_arrivals / (self.start + math.sqrt(max(0.0, self.start**2 + 2 * slope * num_arrivals)))


@dataclass(frozen=True, slots=True)
class Steps:
    """One rate after the other, each for its time."""

    steps: tuple[Step, ...]

    @property
    def num_expected(self) -> float:
        return math.fsum(step.rate * step.duration_s for step in self.steps)

    def instant(self, num_arrivals: float) -> float:
        begins_at, num_left = 0.0, num_arrivals
        for step in self.steps:
            num_of_step = step.rate * step.duration_s
            if step.rate and num_left <= num_of_step:
                break
            begins_at, num_left = begins_at + step.duration_s, num_left - num_of_step
        else:
            return begins_at
        return begins_at + num_left / step.rate


def at_changing_rate(gaps: Iterable[float], rate: ChangingRate) -> list[float]:
    """All arrivals until the rate's end. gaps: of mean 1. Their number is drawn too, as it is for real visitors."""
    num_expected = rate.num_expected
    return [rate.instant(place) for place in _until(accumulate(gaps), num_expected)]


def _until(places: Iterable[float], limit: float) -> Sequence[float]:
    found: list[float] = []
    for place in places:
        if place > limit:
            break
        found.append(place)
    return found
