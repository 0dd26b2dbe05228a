"""What goes wrong: chosen for a request by its index, by chance with a seed, or switched while the simulator runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from enginebay.errors import ConfigError


class Fault(StrEnum):
    REFUSE = "refuse"
    """The connection is closed without an answer."""
    LOADING = "loading"
    """Answered as the engine does while it loads; one that does not listen then closes the connection."""
    OVERLOAD = "overload"
    """Answered as the engine does when it has too much to do."""
    STALL = "stall"
    """The answer stops and the connection stays open, until the client has had enough."""
    CUT = "cut"
    """The connection is closed in the middle of the answer."""
    MALFORMED = "malformed"
    """One event, or the whole answer, is broken off inside its JSON."""
    WRONG_USAGE = "wrong_usage"
    """The engine reports one output token more than it gave."""
    DEAD = "dead"
    """The engine dies, with all its requests; the server around it goes on answering as this engine's does."""


FAULTS_IN_ANSWER = (Fault.STALL, Fault.CUT, Fault.MALFORMED, Fault.WRONG_USAGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRule:
    fault: Fault
    probability: float = 1.0
    after_events: int = 1
    """Of a stream: how many pieces come through before it stalls, is cut or is malformed."""

    def __post_init__(self) -> None:
        """Raises ConfigError."""
        if not 0 <= self.probability <= 1:
            problem = f"the probability of {self.fault} is {self.probability}"
            raise ConfigError(problem, path="probability", expected="from 0 to 1")
        if self.after_events < 0:
            problem = f"{self.fault} comes after {self.after_events} events"
            raise ConfigError(problem, path="after_events", expected="at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """Generation requests are numbered from 0 in the order of their arrival. The first rule that applies is taken."""

    by_index: Mapping[int, FaultRule | Fault] | None = None
    rules: Sequence[FaultRule] = ()
    seed: int = 0


class FaultSwitch:
    """Decides for each generation request. `inject` and `clear` change it while the simulator runs."""

    def __init__(self, plan: FaultPlan | None = None) -> None:
        self._plan = plan or FaultPlan()
        self._injected: FaultRule | None = None
        self._num_left: int | None = None
        self.num_decided = 0
        """Generation requests so far: the index of the next one."""

    def inject(self, fault: Fault, *, num_requests: int | None = None, after_events: int = 1) -> None:
        """For the next `num_requests` generation requests, None is all; goes before the plan."""
        self._injected = FaultRule(fault=fault, after_events=after_events)
        self._num_left = num_requests

    def clear(self) -> None:
        """Back to the plan."""
        self._injected = None

    def decide(self) -> FaultRule | None:
        index = self.num_decided
        self.num_decided += 1
        if (injected := self._take_injected()) is not None:
            return injected
        planned = (self._plan.by_index or {}).get(index)
        if planned is not None:
            return planned if isinstance(planned, FaultRule) else FaultRule(fault=planned)
        if not self._plan.rules:
            return None
        draw = Random(self._plan.seed * 1_000_003 + index)
        return next((rule for rule in self._plan.rules if draw.random() < rule.probability), None)

    def _take_injected(self) -> FaultRule | None:
        if self._injected is None or self._num_left == 0:
            return None
        if self._num_left is not None:
            self._num_left -= 1
        return self._injected


def parse_fault(text: str) -> FaultRule:
    """`stall` or `stall:0.1`. Raises ConfigError."""
    name, _, probability = text.partition(":")
    known = ", ".join(Fault)
    try:
        return FaultRule(fault=Fault(name), probability=float(probability) if probability else 1.0)
    except (ValueError, ConfigError) as error:
        expected = f"NAME[:P], P from 0 to 1, of {known}"
        raise ConfigError(f"{text!r} is no fault", path="--fault", expected=expected) from error
