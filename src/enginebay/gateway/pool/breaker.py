"""A circuit breaker: a replica that keeps failing gets no requests for a while, then one, then all of them again."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from enginebay.clock import Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerBounds:
    num_failures: int = 5
    """Among the last `num_outcomes`: then it opens."""
    num_outcomes: int = 20
    open_s: float = 5.0
    """Doubled each time that the one request of its trial fails too."""
    max_open_s: float = 60.0


class Breaker:
    """Closed, open for a time, then half-open: one trial decides. Outcomes of older requests no longer count then.

    Tell it faults of the replica only. A request that was the client's fault is no outcome at all: not even a good
    one, since it says nothing of the engine behind.
    """

    def __init__(self, clock: Clock, bounds: BreakerBounds | None = None) -> None:
        self._clock, self._bounds = clock, bounds or BreakerBounds()
        self.reset()

    def reset(self) -> None:
        """Of a replica that was started again."""
        self._has_failed: deque[bool] = deque(maxlen=self._bounds.num_outcomes)
        self._opens_s = self._bounds.open_s
        self.open_until: float | None = None
        """None while it is closed."""
        self._trial: object | None = None

    def adopt(self, bounds: BreakerBounds) -> None:
        """Other bounds from now on, over what it has seen so far."""
        self._bounds = bounds
        self._has_failed = deque(self._has_failed, maxlen=bounds.num_outcomes)
        self._opens_s = bounds.open_s if self.open_until is None else min(self._opens_s, bounds.max_open_s)

    @property
    def state(self) -> str:
        if self.open_until is None:
            return "closed"
        return "open" if self._clock.now() < self.open_until else "half-open"

    def admits(self) -> bool:
        if self.open_until is None:
            return True
        return self._trial is None and self._clock.now() >= self.open_until

    def begin(self) -> object | None:
        """The trial where this request is one; to be handed back to exactly one of the three below."""
        if self.open_until is None:
            return None
        self._trial = object()
        return self._trial

    def worked(self, trial: object | None) -> None:
        if self.open_until is None:
            self._has_failed.append(False)
        elif self._is_current(trial):
            self.reset()

    def failed(self, trial: object | None) -> None:
        if self.open_until is None:
            self._has_failed.append(True)
            if sum(self._has_failed) >= self._bounds.num_failures:
                self._open()
        elif self._is_current(trial):
            self._opens_s = min(2 * self._opens_s, self._bounds.max_open_s)
            self._open()

    def take_back(self) -> None:
        """One failure turned out to be no fault of the replica; too late where it has opened."""
        if self.open_until is None and True in self._has_failed:
            self._has_failed.remove(True)

    def forget(self, trial: object | None) -> None:
        """It ended without a word about the replica: the client left, or was at fault. The next one is the trial."""
        if self._is_current(trial):
            self._trial = None

    def _is_current(self, trial: object | None) -> bool:
        return trial is not None and trial is self._trial

    def _open(self) -> None:
        self.open_until = self._clock.now() + self._opens_s
        self._trial = None
        self._has_failed.clear()
