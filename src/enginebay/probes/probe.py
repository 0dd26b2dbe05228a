"""One live check, and what came of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from enginebay.backend import Backend
from enginebay.types import Feature


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    UNSUPPORTED = "unsupported"
    """Not declared, and refused by the field's name: as it should be, but not there."""
    SKIPPED = "skipped"
    """Not to be told here; `detail` says why."""


class ProbeFailed(Exception):
    """Ends a probe; the message is what was expected and what came. Never leaves this package."""


class ProbeSkipped(Exception):
    """Ends a probe that cannot tell; the message is the reason. Never leaves this package."""


def expect(holds: bool, problem: str) -> None:
    if not holds:
        raise ProbeFailed(problem)


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A check of one started backend with nothing else running on it."""

    name: str
    """A sentence; also the key of expected failures and of saved results."""
    description: str
    run: Callable[[Backend], Awaitable[str | None]]
    """Returns a detail worth showing; raises ProbeFailed, ProbeSkipped, or whatever the backend raised."""
    feature: Feature | None = None
    """Where it is not declared, the probe must be refused by its name."""
    time_limit_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Makes backends for life-cycle probes."""

    make: Callable[[], Backend]
    """Not started yet, as `get_backend` builds it."""
    kill: Callable[[Backend], Awaitable[None]] | None = None
    """Ends the engine of a started backend from outside, as a crash would."""
    make_loading: Callable[[], Backend] | None = None
    """One whose engine is still loading a while after start() was called."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LifeCycleProbe:
    """A check that starts and ends backends of its own."""

    name: str
    description: str
    run: Callable[[Subject], Awaitable[str | None]]
    time_limit_s: float = 300.0
    """Real engines take a minute to start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    name: str
    outcome: Outcome
    detail: str = ""
    feature: Feature | None = None
    duration_s: float = 0.0

    @property
    def is_failure(self) -> bool:
        return self.outcome is Outcome.FAILED
