"""How many retries a pool may add to its load: a share of its requests, and a few for quiet times."""

from __future__ import annotations

from enginebay.clock import Clock

ROUNDING = 1e-9
"""Ten tenths are not quite one."""


class RetryBudget:
    """A bucket: each request puts `ratio` of a retry in, each retry takes one out, `min_retries_per_s` drip in.

    Without it retries multiply the load of engines that fail because of their load. It starts full: the death of one
    replica with all that is in flight there is no reason to fail a request, a pool that keeps failing is.
    """

    def __init__(
        self, clock: Clock, *, ratio: float = 0.2, min_retries_per_s: float = 1.0, max_kept: float = 256.0
    ) -> None:
        """max_kept: retries that can be saved up; at least one."""
        self._clock, self._ratio, self._min_retries_per_s = clock, ratio, min_retries_per_s
        self._max_kept = self._num_left = max(1.0, max_kept)
        self._counted_at = clock.now()

    def request_began(self) -> None:
        self._num_left = min(self._max_kept, self._num_left + self._ratio)

    def take(self) -> bool:
        """Whether one more retry may be made; it is counted then."""
        now = self._clock.now()
        dripped = (now - self._counted_at) * self._min_retries_per_s
        self._counted_at = now
        self._num_left = min(self._max_kept, self._num_left + dripped)
        if self._num_left < 1.0 - ROUNDING:
            return False
        self._num_left -= 1.0
        return True
