"""A bounded queue before the engines: by priority and deadline, and no promise that cannot be kept."""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from operator import attrgetter

from enginebay.clock import Clock
from enginebay.errors import BackendOverloaded, DeadlineExceeded, EngineBayError
from enginebay.types import GenerationRequest
from enginebay.wire.deadlines import NEVER, DeadlineWatch

SMOOTHING = 0.1
"""Share of the newest request in the mean of how long they take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionBounds:
    max_queued: int = 256
    max_wait_s: float = 30.0


class Admission:
    """Who may send to the engines now. Whoever has entered leaves exactly once.

    room: how many may be inside at this moment; it changes as replicas come and go, and `wake` says so. A request
    that would wait longer than it may is refused at once, with the time after which there may be room.
    """

    def __init__(
        self,
        clock: Clock,
        watch: DeadlineWatch,
        *,
        room: Callable[[], int],
        least_room: int = 0,
        bounds: AdmissionBounds | None = None,
    ) -> None:
        """least_room: what `room` never falls below; so many are let in without asking it."""
        self._least_room = least_room
        self._clock, self._watch, self._room, self._bounds = clock, watch, room, bounds or AdmissionBounds()
        self._waiters: list[Waiter] = []  # by rank; only those that still wait
        self._serials = count()
        self._mean_s = 0.0
        self.num_inside = 0
        self.num_refused = 0

    @property
    def num_waiting(self) -> int:
        return len(self._waiters)

    async def enter(self, request: GenerationRequest) -> None:
        """Raises BackendOverloaded, or DeadlineExceeded where the client's own deadline passes."""
        if not self._waiters and (self.num_inside < self._least_room or self.num_inside < self._room()):
            self.num_inside += 1
            return
        waiter = Waiter(request, self._clock.now() + self._bounds.max_wait_s, serial=next(self._serials))
        self._demand_place(waiter)
        insort(self._waiters, waiter, key=_rank)
        self._watch.add(waiter)
        try:
            await waiter.turn
        except BaseException as error:
            self._gave_up(waiter, error)
            raise
        finally:
            self._watch.discard(waiter)

    def leave(self, *, took_s: float) -> None:
        """took_s: since it entered."""
        self.num_inside -= 1
        self._mean_s = took_s if not self._mean_s else self._mean_s + SMOOTHING * (took_s - self._mean_s)
        self.wake()

    def _gave_up(self, waiter: Waiter, error: BaseException) -> None:
        self.num_refused += isinstance(error, EngineBayError)
        if waiter in self._waiters:
            self._waiters.remove(waiter)
        if waiter.has_entered:  # cancelled after its turn had come: the place goes to the next
            self.num_inside -= 1
            self.wake()

    def wake(self) -> None:
        """Let in whom there is room for."""
        while self._waiters and self.num_inside < self._room():
            waiter = self._waiters.pop(0)
            if not waiter.turn.done():
                self.num_inside += 1
                waiter.has_entered = True
                waiter.turn.set_result(None)

    def expected_wait_s(self, num_before: int) -> float:
        """Of one with so many before it; 0 while nothing is known."""
        return self._mean_s * (num_before + 1) / max(1, self._room())

    def _demand_place(self, waiter: Waiter) -> None:
        num_before = sum(other.rank < waiter.rank for other in self._waiters)
        expected_s = self.expected_wait_s(num_before)
        if self._clock.now() + expected_s > waiter.deadline_at:
            self.num_refused += 1
            raise _overloaded(f"the wait would be about {expected_s:.1f} s, longer than it may be", expected_s)
        if len(self._waiters) < self._bounds.max_queued:
            return
        expected_s = self.expected_wait_s(len(self._waiters))
        full = _overloaded(f"{len(self._waiters)} requests wait already", expected_s)
        if not self._waiters or self._waiters[-1].request.priority <= waiter.request.priority:
            self.num_refused += 1
            raise full
        self._waiters.pop().refuse(full)


class Waiter:
    """rank: priority first, then the nearest deadline, then who came first."""

    __slots__ = ("deadline_at", "has_entered", "rank", "request", "turn")

    def __init__(self, request: GenerationRequest, patience_ends_at: float, *, serial: int) -> None:
        self.request = request
        wanted_by = NEVER if request.deadline_at is None else request.deadline_at
        self.deadline_at = min(wanted_by, patience_ends_at)
        self.rank = (request.priority, wanted_by, serial)
        self.turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.has_entered = False

    def expire(self) -> None:
        is_client_deadline = self.deadline_at == self.request.deadline_at
        self.deadline_at = NEVER
        if is_client_deadline:
            self.refuse(DeadlineExceeded("the deadline passed while the request waited for an engine"))
        else:
            self.refuse(_overloaded("no engine had room in time", None))

    def refuse(self, error: EngineBayError) -> None:
        if not self.turn.done():
            self.turn.set_exception(error)


_rank = attrgetter("rank")


def _overloaded(problem: str, retry_after_s: float | None) -> BackendOverloaded:
    return BackendOverloaded(f"{problem}: try again later", retry_after_s=retry_after_s)
