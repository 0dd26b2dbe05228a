"""One place that requests can be sent to, and what the gateway knows of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from enginebay.clock import Clock
from enginebay.errors import BackendOverloaded, EngineBayError, ShuttingDown
from enginebay.gateway.pool.breaker import Breaker
from enginebay.gateway.pool.faults import is_fault_of_replica
from enginebay.monitoring import InstrumentedBackend

COOLS_S = 1.0
"""After an overload that named no time."""
MAX_COOLS_S = 60.0
"""Whatever it named."""


class ReplicaState(StrEnum):
    LOADING = "loading"
    READY = "ready"
    UNHEALTHY = "unhealthy"
    """Its checks fail; requests go elsewhere until they pass."""
    DEAD = "dead"
    """It ended, or never started; it comes back only when it is started again."""


class Running(Protocol):
    """An attempt that waits for its replica."""

    def abandon(self, error: EngineBayError) -> None: ...


class Replica:
    """name: unique in the gateway. weight: its share of the load beside others. Touched by one event loop alone."""

    def __init__(
        self, name: str, backend: InstrumentedBackend, *, clock: Clock, breaker: Breaker, weight: float = 1.0
    ) -> None:
        self.name, self.backend, self.weight, self.breaker = name, backend, weight, breaker
        self._clock = clock
        self.state = ReplicaState.LOADING
        self.reason = "the model is loading"
        """Why it is not ready."""
        self.was_ready = False
        """At any time: from then on it is known what it can do."""
        self.num_in_flight = 0
        self.last_token_at = clock.now()
        """When anything came from it last: an engine that talks needs no canary."""
        self._cools_until = clock.now()
        self._running: set[Running] = set()

    @property
    def load(self) -> float:
        """Requests in flight, for its weight."""
        return self.num_in_flight / self.weight

    def is_available(self) -> bool:
        return self.is_sound() and self._cools_until <= self._clock.now()

    def is_sound(self) -> bool:
        """Nothing but its load may keep requests from it."""
        breaker = self.breaker
        return self.state is ReplicaState.READY and (breaker.open_until is None or breaker.admits())

    @property
    def cools_s(self) -> float:
        """For so long it takes no more."""
        return max(0.0, self._cools_until - self._clock.now())

    def why_not(self) -> str:
        """In words, of one that is not available."""
        if self.state is not ReplicaState.READY:
            return f"{self.name} is {self.state}: {self.reason}"
        if self.cools_s:
            return f"{self.name} is overloaded for {self.cools_s:.1f} s more"
        now = self._clock.now()
        if self.breaker.open_until is not None and self.breaker.open_until > now:
            return f"{self.name} failed too often and rests for {self.breaker.open_until - now:.1f} s more"
        return f"{self.name} is being tried with one request"

    def became(self, state: ReplicaState, reason: str = "") -> None:
        self.state, self.reason = state, reason
        self.was_ready = self.was_ready or state is ReplicaState.READY

    def abandon_all(self, error: EngineBayError) -> None:
        """End what waits for it with this error, so that it can go on elsewhere."""
        for running in tuple(self._running):
            running.abandon(error)

    def use(self) -> Use:
        return Use(self)

    def began(self, running: Running) -> None:
        self._running.add(running)
        self.num_in_flight += 1

    def ended(self, running: Running) -> None:
        if running in self._running:
            self._running.discard(running)
            self.num_in_flight -= 1

    def cool(self, duration_s: float | None) -> None:
        """None where it did not say how long."""
        self._cools_until = self._clock.now() + (COOLS_S if duration_s is None else min(duration_s, MAX_COOLS_S))


class Use:
    """What one attempt tells of its replica: at most one verdict, whichever comes first after a success."""

    __slots__ = ("_has_told", "_is_blamed", "_replica", "_trial")

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._trial = replica.breaker.begin()
        self._has_told = self._is_blamed = False

    def worked(self) -> None:
        """Tokens came."""
        if not self._has_told:
            self._has_told = True
            self._replica.breaker.worked(self._trial)

    def failed(self, error: EngineBayError) -> None:
        """Also after it worked: a stream that is cut counts against the replica."""
        if is_fault_of_replica(error):
            self._has_told = self._is_blamed = True
            self._replica.breaker.failed(self._trial)
        elif isinstance(error, BackendOverloaded):
            self._replica.cool(error.retry_after_s)
        elif isinstance(error, ShuttingDown):
            self._replica.cool(None)

    def take_back(self, after: Replica) -> None:
        """Another replica failed at the same request in the same way: then it was the request."""
        if self._is_blamed and after is not self._replica:
            self._is_blamed = False
            self._replica.breaker.take_back()

    def end(self) -> None:
        if not self._has_told:
            self._replica.breaker.forget(self._trial)
