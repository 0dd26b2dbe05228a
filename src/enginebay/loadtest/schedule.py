"""In which order backends are started, and how long all of it will take.

A B B A A B B A ...: what drifts over the hours (a warm machine, a busy neighbour) falls on all alike, and the starts
of one round stand side by side in time, so that they can be compared pair by pair.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from enginebay.loadtest.plan import PlannedLoad
from enginebay.loadtest.result import Run

# Assumed of a backend that nobody has measured yet; the first start corrects both.
ASSUMED_START_S = 30.0
ASSUMED_TOKENS_PER_S = 25.0
"""Output tokens of one request, its prompt counted as a tenth of so many tokens."""
PROMPT_WEIGHT = 0.1


def rounds(labels: Sequence[str], num_starts: int) -> Iterator[tuple[int, str]]:
    """(start index, label) in the order of time."""
    for start_index in range(num_starts):
        yield from ((start_index, label) for label in (labels if start_index % 2 == 0 else reversed(labels)))


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeEstimate:
    remaining_s: float
    is_measured: bool
    """False while it stands on assumptions about a backend that has not been measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """What is thought of a backend before it is measured; by itself, of one that nobody has asked anything."""

    start_s: float = ASSUMED_START_S
    alone_tokens_per_s: float = ASSUMED_TOKENS_PER_S
    """Of one user."""
    together: tuple[int, float] | None = None
    """So many users, and their tokens/s in sum; None: each has as many as one who is alone."""

    def tokens_per_s(self, num_users: int) -> float:
        """In sum. Between one user and those that were asked together it rises evenly, and not beyond them."""
        if self.together is None:
            return num_users * self.alone_tokens_per_s
        most, in_sum = self.together
        share = min(1.0, (num_users - 1) / (most - 1))
        return self.alone_tokens_per_s + share * (in_sum - self.alone_tokens_per_s)


class Estimator:
    """Tells how long the starts that are left will take, from what the first ones took.

    speeds: by label, of backends that something is known of.
    """

    def __init__(self, loads: Sequence[PlannedLoad], speeds: Mapping[str, Speed] | None = None) -> None:
        self._loads, self._speeds = loads, dict(speeds or {})
        self._measured_s: dict[str, list[float]] = {}

    def measured(self, label: str, duration_s: float) -> None:
        """One start of a backend, from launching it to its end."""
        self._measured_s.setdefault(label, []).append(duration_s)

    def learn(self, runs: Sequence[Run]) -> None:
        """From runs of an earlier load test with the same plan."""
        by_start: dict[tuple[str, int], float] = {}
        for run in runs:
            key = (run.label, run.start_index)
            by_start[key] = by_start.get(key, run.start_duration_s or 0.0) + run.metrics.duration_s
        for (label, _), duration_s in by_start.items():
            self.measured(label, duration_s)

    def estimate(self, num_left: Mapping[str, int]) -> TimeEstimate:
        """num_left: starts of each label that are still to come."""
        left = {label: number for label, number in num_left.items() if number}
        return TimeEstimate(
            remaining_s=sum(number * self._start_s(label) for label, number in left.items()),
            is_measured=all(label in self._measured_s for label in left),
        )

    def _start_s(self, label: str) -> float:
        if measured := self._measured_s.get(label):
            return sum(measured) / len(measured)
        speed = self._speeds.get(label, Speed())
        others = [sum(values) / len(values) for values in self._measured_s.values()]
        if others and speed.together is None:
            return sum(others) / len(others)
        return speed.start_s + sum(_assumed_load_s(load, speed) for load in self._loads)


def _assumed_load_s(planned: PlannedLoad, speed: Speed) -> float:
    """Open loop: to the last arrival and its answer. Closed loop: all answers, shared among the users."""
    requests = [*planned.warmup, *planned.requests]
    weights = [weight_of(item.num_prompt_tokens, item.sampling.max_tokens) for item in requests]
    if planned.load.users is not None:
        return sum(weights) / speed.tokens_per_s(planned.load.users)
    last_at = max((item.offset_s or 0.0 for item in planned.requests), default=0.0)
    return last_at + max(weights, default=0.0) / speed.alone_tokens_per_s


def weight_of(num_prompt_tokens: float, num_output_tokens: float) -> float:
    """Of one request, in output tokens."""
    return PROMPT_WEIGHT * num_prompt_tokens + num_output_tokens
