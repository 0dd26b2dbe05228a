"""One probe on a started backend: the ordinary run of a Poisson load, given up when it is over-saturated."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from enginebay.backend import Backend
from enginebay.clock import Clock
from enginebay.loadtest.capacity.energy import EnergyMeter, EnergyUse
from enginebay.loadtest.capacity.levels import CapacityLevels, missed
from enginebay.loadtest.capacity.misses import Misses, count_misses
from enginebay.loadtest.capacity.posterior import Observation
from enginebay.loadtest.capacity.result import Probe
from enginebay.loadtest.capacity.saturation import SaturationWatch
from enginebay.loadtest.measurement import BenchSettings, Measurement, Subject, Watcher
from enginebay.loadtest.metrics import output_tokens
from enginebay.loadtest.plan import PlannedLoad
from enginebay.loadtest.records import INTERRUPTED, Record, RunKey
from enginebay.loadtest.result import Run, Status
from enginebay.loadtest.timeseries import Sample
from enginebay.loadtest.tokenizer import TextTokenizer

SETTLING_RATIO = 0.1
"""Of the time of sending: what arrives in it meets a queue that is shorter than it will be, and does not count."""
CHECK_INTERVAL_S = 0.25
ABOUT_THE_ENGINE = frozenset({"partial", "errors", "too_few_requests"})
"""Reasons against a run that say nothing against a probe: it was given up, or errors are what the search asks about;
how sure a few requests make is in the interval."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probed:
    probe: Probe
    observation: Observation
    run: Run
    records: Sequence[Record]
    samples: Sequence[Sample]


class ProbeRun:
    def __init__(
        self,
        subject: Subject,
        backend: Backend,
        *,
        planned_load: PlannedLoad,
        number: int,
        start_index: int,
        levels: CapacityLevels,
        clock: Clock,
        watcher: Watcher,
        settings: BenchSettings,
        meter: EnergyMeter,
    ) -> None:
        self._planned_load, self._number, self._levels = planned_load, number, levels
        self._clock, self._meter, self._energy = clock, meter, EnergyUse()
        self._offsets = sorted(planned.offset_s or 0.0 for planned in planned_load.requests)
        self._saturation = SaturationWatch(self._offsets, levels)
        self._is_saturated = False
        self._duration_s = 0.0
        """Of the load alone: what is decoded afterwards, when nothing is served any more, is no time of the engine."""
        self._measurement = Measurement(
            subject,
            backend,
            planned_load=planned_load,
            start_index=start_index,
            clock=clock,
            watcher=_Seen(watcher, self._saturation),
            settings=settings,
            repeat=number,
            on_begin=meter.start,
            on_over=self._read_energy,
        )

    async def run(self, tokenizer: TextTokenizer | None = None) -> Probed:
        running = asyncio.create_task(self._measurement.run(), name=f"probe {self._number}")
        try:
            await self._until_done(running)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        return self._probed(self._measurement.outcome(self._status, tokenizer=tokenizer))

    def _read_energy(self) -> None:
        """When the last answer is there or the rest is given up: the client decodes later, which is no work of the
        engine's."""
        self._energy = self._meter.stop()

    @property
    def _status(self) -> Status:
        return "partial" if self._is_saturated else "complete"

    async def _until_done(self, running: asyncio.Task[None]) -> None:
        while not running.done():
            await self._wait(running)
            elapsed_s = self._clock.now() - self._measurement.started_at
            if not running.done() and self._saturation.is_saturated(elapsed_s):
                self._is_saturated, self._duration_s = True, elapsed_s
                return
        running.result()
        self._duration_s = max((record.ended_at for record in self._measurement.records), default=0.0)

    async def _wait(self, running: asyncio.Task[None]) -> None:
        pause = asyncio.ensure_future(self._clock.sleep_until(self._clock.now() + CHECK_INTERVAL_S))
        try:
            await asyncio.wait({running, pause}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            pause.cancel()
            await asyncio.gather(pause, return_exceptions=True)

    # ------------------------------------------------------------ what came of it

    def _probed(self, run: Run) -> Probed:
        records = [record for record in self._measurement.records if record.error_class != INTERRUPTED]
        counted = self._settled(records)
        misses = self._misses(counted)
        against = tuple(reason for reason in run.invalid_reasons if reason.code not in ABOUT_THE_ENGINE)
        good = [record for record in counted if not any(missed(record, self._levels).values())]
        probe = Probe(
            number=self._number,
            rate_rps=self._planned_load.load.rate or 0.0,
            offered_rps=self._offered_rps,
            num_requests=len(self._offsets),
            num_ended=len(records),
            duration_s=self._duration_s,
            misses=misses,
            is_borne=not self._is_saturated and all(each.is_met for each in misses.values()),
            is_saturated=self._is_saturated,
            served_rps=self._saturation.served_rps(self._duration_s),
            good_ratio=len(good) / len(counted) if counted else 0.0,
            good_tokens_per_request=sum(map(output_tokens, good)) / len(counted) if counted else 0.0,
            is_counted=not against,
            invalid_reasons=against,
            energy=self._energy,
        )
        return Probed(
            probe=probe,
            observation=observation_of(probe),
            run=run,
            records=self._measurement.records,
            samples=self._measurement.samples,
        )

    def _settled(self, records: Sequence[Record]) -> list[Record]:
        """In the order of arrival. Of a probe that was given up all count: it has no time to spare."""
        begin_s = 0.0 if self._is_saturated else SETTLING_RATIO * self._offsets[-1]
        return sorted((record for record in records if record.scheduled_at >= begin_s), key=_by_arrival)

    def _misses(self, records: Sequence[Record]) -> dict[str, Misses]:
        missed_by_each = [missed(record, self._levels) for record in records]
        return {
            name: count_misses([each[name] for each in missed_by_each], allowed_ratio=allowed)
            for name, allowed in self._levels.allowed_ratios.items()
        }

    @property
    def _offered_rps(self) -> float:
        span_s = self._offsets[-1] - self._offsets[0]
        return (len(self._offsets) - 1) / span_s if span_s > 0 else self._planned_load.load.rate or 0.0


def observation_of(probe: Probe) -> Observation:
    """The rate is the one that came about: chance in the number of arrivals is no chance in what was borne."""
    return Observation(
        rate_rps=probe.offered_rps,
        misses=probe.misses,
        is_saturated=probe.is_saturated,
        served_rps=probe.served_rps if probe.is_saturated else None,
    )


def _by_arrival(record: Record) -> float:
    return record.scheduled_at


class _Seen:
    """Passes everything on, and lets the watch for saturation see the records."""

    def __init__(self, watcher: Watcher, saturation: SaturationWatch) -> None:
        self._watcher, self._saturation = watcher, saturation

    def phase(self, label: str, what: str) -> None:
        self._watcher.phase(label, what)

    def run_begins(self, run: RunKey, num_requests: int) -> None:
        self._watcher.run_begins(run, num_requests)

    def record(self, run: RunKey, record: Record) -> None:
        if record.error_class != INTERRUPTED:
            self._saturation.see(record)
        self._watcher.record(run, record)

    def run_ends(self, run: Run) -> None:
        self._watcher.run_ends(run)
