"""Of two backends' capacities, with its interval.

With three starts of each or more, the interval is that of the starts: Student's, or a bootstrap from twenty on, over
the logarithms, pairs of one round together. With fewer it knows the chance within the searches alone, and not what
differs from start to start; then it is told as such and decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from enginebay.errors import NotComparable
from enginebay.loadtest.capacity.result import BackendCapacity, CapacityResult, Interval
from enginebay.statistics.effect import paired_effect, unpaired_effect

MIN_STARTS = 3


class CapacityRatio(msgspec.Struct, frozen=True, kw_only=True):
    """Of `second` over `first`."""

    first: str
    second: str
    ratio: float | None
    interval: Interval | None
    unit: Literal["starts", "one search each", ""]
    """What the interval knows the scatter of."""
    outcome: Literal["higher", "lower", "undecided"]
    why: str = ""
    """Of `undecided`, or of no ratio at all."""


def capacity_ratios(result: CapacityResult, *, confidence: float = 0.95) -> tuple[CapacityRatio, ...]:
    """Each further label against the first."""
    labels = list(dict.fromkeys(capacity.label for capacity in result.capacities))
    by_label = {label: [capacity for capacity in result.capacities if capacity.label == label] for label in labels}
    return tuple(capacity_ratio(by_label[labels[0]], by_label[label], confidence=confidence) for label in labels[1:])


def capacity_ratio(
    first: Sequence[BackendCapacity], second: Sequence[BackendCapacity], *, confidence: float = 0.95
) -> CapacityRatio:
    """first, second: the searches of one label each, by start. Raises NotComparable for different transports."""
    if len({capacity.transport for capacity in (*first, *second)}) > 1:
        raise NotComparable("backends that were reached over different transports are not compared")
    names = first[0].label, second[0].label
    if any(capacity.simulated for capacity in (*first, *second)):
        return _nothing(*names, why="no verdict (simulated)")
    one, other = _found(first), _found(second)
    if not one or not other:
        return _nothing(*names, why=f"the capacity of {names[0] if not one else names[1]} was not found")
    if min(len(one), len(other)) < MIN_STARTS:
        return _of_one_search(*names, first=one, second=other)
    return _of_starts(*names, first=one, second=other, confidence=confidence)


def _found(capacities: Sequence[BackendCapacity]) -> dict[int, BackendCapacity]:
    """By start."""
    return {capacity.start_index: capacity for capacity in capacities if capacity.outcome == "found"}


def _of_starts(
    first_name: str,
    second_name: str,
    *,
    first: dict[int, BackendCapacity],
    second: dict[int, BackendCapacity],
    confidence: float,
) -> CapacityRatio:
    paired = sorted(first.keys() & second.keys())
    if len(paired) >= MIN_STARTS:
        effect = paired_effect([_log(second[start]) - _log(first[start]) for start in paired])
    else:
        effect = unpaired_effect([_log(each) for each in first.values()], [_log(each) for each in second.values()])
    low, high = effect.interval(confidence)
    outcome = "higher" if low > 0 else "lower" if high < 0 else "undecided"
    return CapacityRatio(
        first=first_name,
        second=second_name,
        ratio=math.exp(effect.estimate),
        interval=Interval(low=math.exp(low), high=math.exp(high), confidence=confidence),
        unit="starts",
        outcome=outcome,
        why="" if outcome != "undecided" else "the interval contains 1",
    )


def _of_one_search(
    first_name: str, second_name: str, *, first: dict[int, BackendCapacity], second: dict[int, BackendCapacity]
) -> CapacityRatio:
    """Of the first starts. The ends of a difference from the ends of both: Zou and Donner 2008 (MOVER)."""
    one, other = first[min(first)], second[min(second)]
    difference = _log(other) - _log(one)
    one_low, one_high, confidence = _ends(one)
    other_low, other_high, _ = _ends(other)
    low = difference - math.hypot(_log(other) - other_low, one_high - _log(one))
    high = difference + math.hypot(other_high - _log(other), _log(one) - one_low)
    return CapacityRatio(
        first=first_name,
        second=second_name,
        ratio=math.exp(difference),
        interval=Interval(low=math.exp(low), high=math.exp(high), confidence=confidence),
        unit="one search each",
        outcome="undecided",
        why=f"fewer than {MIN_STARTS} starts a side: what differs from start to start is not known",
    )


def _log(capacity: BackendCapacity) -> float:
    assert capacity.rate_rps is not None, "found"
    return math.log(capacity.rate_rps)


def _ends(capacity: BackendCapacity) -> tuple[float, float, float]:
    assert capacity.interval_rps is not None, "found"
    interval = capacity.interval_rps
    return math.log(interval.low), math.log(interval.high), interval.confidence


def _nothing(first: str, second: str, *, why: str) -> CapacityRatio:
    return CapacityRatio(first=first, second=second, ratio=None, interval=None, unit="", outcome="undecided", why=why)
