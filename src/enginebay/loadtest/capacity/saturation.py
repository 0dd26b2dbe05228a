"""When a probe may be given up: more comes than is served, and the probe has failed whatever is still to come.

A probe is over-saturated when both hold, from a quarter of its time on:

1. In the later half of the time so far (of sending), fewer than nine tenths of as many requests ended as arrived, and
   the difference is more than four standard deviations of the number that arrives by chance.
2. More requests have missed a level already than may in the whole probe.

The second condition alone decides that the probe has failed, so giving up changes no outcome; the first keeps a probe
that is merely a little too fast, and tells much about the capacity, until its end.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence

from enginebay.loadtest.capacity.levels import CapacityLevels, missed
from enginebay.loadtest.records import Record

MIN_ELAPSED_RATIO = 0.25
MAX_SERVED_RATIO = 0.9
NUM_DEVIATIONS = 4.0


class SaturationWatch:
    """Sees the records of one probe as they come."""

    def __init__(self, offsets: Sequence[float], levels: CapacityLevels) -> None:
        """offsets: ascending, of the requests, in seconds from the start of the probe."""
        self._offsets, self._levels = offsets, levels
        self._ended_at: list[float] = []
        self._num_missed = dict.fromkeys(levels.allowed_ratios, 0)

    def see(self, record: Record) -> None:
        self._ended_at.append(record.ended_at)
        for name, is_missed in missed(record, self._levels).items():
            self._num_missed[name] += is_missed

    def is_saturated(self, elapsed_s: float) -> bool:
        sending_s = min(elapsed_s, self._offsets[-1])
        if sending_s < MIN_ELAPSED_RATIO * self._offsets[-1]:
            return False
        return self._has_failed and self._falls_behind(sending_s)

    def served_rps(self, elapsed_s: float) -> float:
        """What was finished in the later half of the time of sending: of a saturated engine, all that it can."""
        half_s = min(elapsed_s, self._offsets[-1]) / 2
        return self._num_ended(half_s, 2 * half_s) / half_s if half_s > 0 else 0.0

    @property
    def _has_failed(self) -> bool:
        allowed: Mapping[str, float] = self._levels.allowed_ratios
        return any(self._num_missed[name] > ratio * len(self._offsets) for name, ratio in allowed.items())

    def _falls_behind(self, sending_s: float) -> bool:
        num_arrived = bisect_right(self._offsets, sending_s) - bisect_left(self._offsets, sending_s / 2)
        num_ended = self._num_ended(sending_s / 2, sending_s)
        backlog = num_arrived - num_ended
        return num_ended < MAX_SERVED_RATIO * num_arrived and backlog > NUM_DEVIATIONS * math.sqrt(num_arrived)

    def _num_ended(self, begin_s: float, end_s: float) -> int:
        return sum(begin_s <= at <= end_s for at in self._ended_at)
