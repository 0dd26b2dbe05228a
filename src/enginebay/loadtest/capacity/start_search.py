"""The search on one start of one backend: warmed up, then probed at one rate after the other."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from enginebay.backend import Backend
from enginebay.clock import Clock
from enginebay.errors import BackendError
from enginebay.loadtest.capacity.cost import cost_at
from enginebay.loadtest.capacity.energy import EnergyMeter, MachineMeter
from enginebay.loadtest.capacity.levels import CapacityLevels
from enginebay.loadtest.capacity.probing import Probed, ProbeRun, observation_of
from enginebay.loadtest.capacity.result import BackendCapacity, Interval, Outcome, Probe
from enginebay.loadtest.capacity.search import CapacitySearch
from enginebay.loadtest.measurement import BenchSettings, Subject, Watcher
from enginebay.loadtest.plan import Load, PlannedLoad
from enginebay.loadtest.plan_fit import check_plan_fits
from enginebay.loadtest.result import Status
from enginebay.loadtest.runner import Runner

MAX_INVALID_IN_A_ROW = 2
IDLE_WAIT_S = 10.0
"""After a probe that was given up: so long may the engine take to be rid of what was cancelled."""
IDLE_POLL_S = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacitySettings:
    levels: CapacityLevels
    max_probes: int = 12
    probe_s: float = 60.0
    confidence: float = 0.95
    precision: float = 0.03
    """The search ends when half of the interval is no more than this share of the capacity."""
    start_rps: float = 1.0
    num_starts: int = 1
    price_per_hour: dict[str, float] | None = None
    """By label."""

    def num_requests(self, rate_rps: float) -> int:
        """Of one probe."""
        return max(self.levels.min_requests, math.ceil(rate_rps * self.probe_s))


class PlanProbe(Protocol):
    def __call__(
        self, rate_rps: float, num_requests: int, *, start_index: int, number: int, session: int
    ) -> PlannedLoad:
        """A Poisson load with arrivals and prompts that no other probe has, of this start or another. Blocks.

        session: how often the search was cut short before: the probe of that number may have been under way.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchTools:
    """What every search of a load test shares."""

    plan_probe: PlanProbe
    settings: CapacitySettings
    bench_settings: BenchSettings
    clock: Clock
    watcher: Watcher
    meter_of: Callable[[str], EnergyMeter] = lambda label: MachineMeter()
    """How the energy of a label's engine is read."""


class StartSearch:
    """What was probed until then is kept, also when `run` is cut short."""

    def __init__(
        self,
        tools: SearchTools,
        subject: Subject,
        backend: Backend,
        *,
        start_index: int,
        session: int = 0,
        earlier: BackendCapacity | None = None,
        on_probed: Callable[[Probed], None] = lambda probed: None,
    ) -> None:
        """earlier: what was found before this search was cut short. on_probed: called after each probe."""
        self._session, self._on_probed = session, on_probed
        self._earlier = earlier.probes if earlier is not None else ()
        self._num_engine_starts = 1 + (earlier.num_engine_starts if earlier is not None else 0)
        self._tools, self._subject, self._backend, self._start_index = tools, subject, backend, start_index
        settings = tools.settings
        self._search = CapacitySearch(
            start_rps=settings.start_rps,
            max_probes=settings.max_probes,
            confidence=settings.confidence,
            precision=settings.precision,
        )
        self.probed: list[Probed] = []
        """On this start of the engine."""
        self._why = ""
        self._num_invalid_in_a_row = 0
        for probe in self._earlier:
            self._learn(probe)

    @property
    def _probes(self) -> tuple[Probe, ...]:
        return (*self._earlier, *(each.probe for each in self.probed))

    async def run(self) -> None:
        while len(self._probes) < self._tools.settings.max_probes and not self._why:
            rate = self._search.next_rate()
            if rate is None:
                return
            await self._probe(rate)

    async def _probe(self, rate_rps: float) -> None:
        tools, number = self._tools, len(self._probes)
        # Long prompts take seconds to cut.
        num_requests = tools.settings.num_requests(rate_rps)
        planned = await asyncio.to_thread(
            tools.plan_probe,
            rate_rps,
            num_requests,
            start_index=self._start_index,
            number=number,
            session=self._session,
        )
        check_plan_fits(planned, self._backend.info)
        if not self.probed:
            await self._warm_up(planned)
        probed = await ProbeRun(
            self._subject,
            self._backend,
            planned_load=planned,
            number=number,
            start_index=self._start_index,
            levels=tools.settings.levels,
            clock=tools.clock,
            watcher=tools.watcher,
            settings=tools.bench_settings,
            meter=tools.meter_of(self._subject.label),
        ).run()
        self._keep(probed)
        if probed.probe.is_saturated:
            await self._until_idle()

    def _keep(self, probed: Probed) -> None:
        self.probed.append(probed)
        self._tools.watcher.run_ends(probed.run)
        self._learn(probed.probe)
        self._on_probed(probed)

    def _learn(self, probe: Probe) -> None:
        if probe.is_counted:
            self._search.observe(observation_of(probe))
            self._num_invalid_in_a_row = 0
            return
        self._num_invalid_in_a_row += 1
        if self._num_invalid_in_a_row == MAX_INVALID_IN_A_ROW:
            reasons = "; ".join(f"{reason.code}: {reason.detail}" for reason in probe.invalid_reasons)
            self._why = f"{MAX_INVALID_IN_A_ROW} probes in a row were invalid ({reasons})"

    async def _warm_up(self, planned: PlannedLoad) -> None:
        if planned.warmup:
            self._tools.watcher.phase(self._subject.label, "warming up")
            runner = Runner(
                self._backend,
                clock=self._tools.clock,
                on_record=lambda record: None,
                request_timeout_s=self._tools.bench_settings.request_timeout_s,
                run_id=f"{self._subject.label}-warmup",
            )
            await runner.run(planned.warmup, Load(users=len(planned.warmup)))

    async def _until_idle(self) -> None:
        """As the engine tells; one that tells nothing is given a second."""
        clock = self._tools.clock
        until = clock.now() + IDLE_WAIT_S
        while clock.now() < until:
            try:
                stats = await self._backend.stats()
            except BackendError:
                return
            if stats.requests_running is None:
                await clock.sleep_until(clock.now() + 1.0)
                return
            if not stats.requests_running and not stats.requests_waiting:
                return
            await clock.sleep_until(clock.now() + IDLE_POLL_S)

    def capacity(self, status: Status) -> BackendCapacity:
        probes = self._probes
        outcome, rate = self._outcome(probes)
        estimate = self._search.estimate if outcome == "found" else None
        info = self._backend.info
        prices = self._tools.settings.price_per_hour or {}
        return BackendCapacity(
            label=self._subject.label,
            backend=self._subject.kind,
            start_index=self._start_index,
            simulated=info.simulated,
            transport=self._subject.transport,
            engine_version=info.engine_version,
            outcome=outcome,
            rate_rps=rate,
            interval_rps=None
            if estimate is None
            else Interval(low=estimate.interval_rps[0], high=estimate.interval_rps[1], confidence=estimate.confidence),
            why=self._why,
            status=status,
            num_engine_starts=self._num_engine_starts,
            probes=probes,
            cost=cost_at(rate, probes, price_per_hour=prices.get(self._subject.label)),
        )

    def _outcome(self, probes: Sequence[Probe]) -> tuple[Outcome, float | None]:
        borne = [probe.offered_rps for probe in probes if probe.is_counted and probe.is_borne]
        not_borne = [probe.offered_rps for probe in probes if probe.is_counted and not probe.is_borne]
        if borne and not_borne:
            return "found", self._search.estimate.rate_rps
        if borne:
            return "at least", max(borne)
        return ("at most", min(not_borne)) if not_borne else ("none", None)
