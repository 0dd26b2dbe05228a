"""The conformance suite as a class of pytest: every probe is a test of its own.

from enginebay import get_backend
from enginebay.testing import BackendConformance

class TestEcho(BackendConformance):
    def make_backend(self):
        return get_backend("echo")
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Mapping
from typing import Any, ClassVar, TypeVar

import pytest

from enginebay.backend import Backend
from enginebay.guard import GuardedBackend
from enginebay.probes import LIFE_CYCLE_PROBES, PROBES, run_life_cycle_probe, run_probe
from enginebay.probes.probe import LifeCycleProbe, Outcome, Probe, ProbeResult, Subject
from enginebay.types import HealthState

T = TypeVar("T")


class BackendConformance:
    """Inherit from it under a name that pytest collects, and write `make_backend`.

    One backend is started when the first test needs it, and closed after the last; all tests share its event loop.
    A feature that is not declared and refused by its name is reported as skipped: `unsupported: ...`.
    """

    __test__ = False

    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Name of a probe -> why it cannot pass. Strict: one that passes all the same is a failure."""
    never_skipped: ClassVar[frozenset[str]] = frozenset()
    """Names of probes that must pass: what the engine is known to tell may not fall silent, as a skip would have it."""
    time_limit_factor: ClassVar[float] = 1.0
    """Of every probe: more for a slow machine."""

    _shared: ClassVar[_SharedBackend | None] = None

    def make_backend(self) -> Backend:
        """A new backend, not started. Called once for all probes of a running backend, and for each of a life cycle."""
        raise NotImplementedError(f"{type(self).__name__} has no make_backend()")

    async def kill_engine(self, backend: Backend) -> None:
        """Optional: end the engine of this started backend from outside, as a crash would."""
        raise NotImplementedError

    def make_loading_backend(self) -> Backend:
        """Optional: a backend whose engine is still loading for a while after start() is called."""
        raise NotImplementedError

    # ---------------------------------------------------------------- tests

    @pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.name)
    def test_running(self, probe: Probe) -> None:
        shared = self._started()
        self._report(shared.run(run_probe(probe, shared.backend, time_limit_factor=self.time_limit_factor)))

    @pytest.mark.parametrize("probe", LIFE_CYCLE_PROBES, ids=lambda probe: probe.name)
    def test_life_cycle(self, probe: LifeCycleProbe) -> None:
        running = run_life_cycle_probe(probe, self._subject(), time_limit_factor=self.time_limit_factor)
        self._report(asyncio.run(running))

    def test_expected_failures_are_names_of_probes(self) -> None:
        known = {probe.name for probe in (*PROBES, *LIFE_CYCLE_PROBES)}
        assert not {*self.expected_failures, *self.never_skipped} - known, (
            f"there is no such probe; known are {sorted(known)}"
        )

    # ---------------------------------------------------------------- how they run

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "__test__" not in vars(cls):
            cls.__test__ = True
        cls._shared = None

    @classmethod
    def teardown_class(cls) -> None:
        shared, cls._shared = cls._shared, None
        if shared is not None:
            shared.close()

    def _started(self) -> _SharedBackend:
        cls = type(self)
        if cls._shared is not None and cls._shared.is_dead():
            cls.teardown_class()  # an earlier probe has killed it: the next ones judge a new one
        if cls._shared is None:
            cls._shared = _SharedBackend(guarded(self.make_backend()))
        return cls._shared

    def _subject(self) -> Subject:
        cls = type(self)
        kills = cls.kill_engine is not BackendConformance.kill_engine
        loads = cls.make_loading_backend is not BackendConformance.make_loading_backend
        return Subject(
            make=lambda: guarded(self.make_backend()),
            kill=self._kill if kills else None,
            make_loading=(lambda: guarded(self.make_loading_backend())) if loads else None,
        )

    async def _kill(self, backend: Backend) -> None:
        killing: object = self.kill_engine(backend)
        if isinstance(killing, Awaitable):  # a plain function will do, too
            await killing

    def _report(self, result: ProbeResult) -> None:
        """How pytest hears of it."""
        expected = self.expected_failures.get(result.name)
        match result.outcome:
            case Outcome.FAILED if expected is not None:
                pytest.xfail(f"{expected} ({result.detail})")
            case Outcome.FAILED:
                pytest.fail(result.detail, pytrace=False)
            case Outcome.PASSED if expected is not None:
                pytest.fail(f"passed, though it was expected to fail: {expected}", pytrace=False)
            case Outcome.UNSUPPORTED | Outcome.SKIPPED if result.name in self.never_skipped:
                pytest.fail(f"must pass, but was {result.outcome.value}: {result.detail}", pytrace=False)
            case Outcome.UNSUPPORTED:
                pytest.skip(f"unsupported: {result.detail}")
            case Outcome.SKIPPED:
                pytest.skip(result.detail)
            case Outcome.PASSED:
                return


def guarded(backend: Backend) -> GuardedBackend:
    """As `get_backend` gives it: a raw one is wrapped."""
    return backend if isinstance(backend, GuardedBackend) else GuardedBackend(backend)


class _SharedBackend:
    """A started backend and the one event loop that it lives on."""

    def __init__(self, backend: GuardedBackend) -> None:
        self.backend = backend
        self._runner = asyncio.Runner()
        self._start_error: BaseException | None = None
        try:
            self._runner.run(backend.start())
        except Exception as error:  # noqa: BLE001 - told to every test that needs it
            self._start_error = error

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._start_error is not None:
            coroutine.close()
            error = self._start_error
            pytest.fail(f"the backend did not start: {type(error).__name__}: {error}", pytrace=False)
        return self._runner.run(coroutine)

    def is_dead(self) -> bool:
        """One that never started is not started again for every test."""
        if self._start_error is not None:
            return False
        return self._runner.run(self._health_state()) is HealthState.DEAD

    async def _health_state(self) -> HealthState:
        try:
            return (await asyncio.wait_for(self.backend.health(), 10.0)).state
        except Exception:  # noqa: BLE001 - a probe judges health
            return HealthState.DEGRADED

    def close(self) -> None:
        try:
            self._runner.run(self.backend.aclose())
        finally:
            self._runner.close()
