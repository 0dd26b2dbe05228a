"""One run: the load on one started backend, its statistics beside it, and what came of both."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from enginebay.backend import Backend
from enginebay.clock import Clock
from enginebay.errors import BackendError
from enginebay.guard import GuardedBackend
from enginebay.loadtest.engine_figures import EngineFigures, engine_figures
from enginebay.loadtest.environment import gpu_memory_used_bytes
from enginebay.loadtest.metrics import ServiceLevels, run_metrics
from enginebay.loadtest.plan import PlannedLoad
from enginebay.loadtest.policy_metrics import PolicyMetrics, policy_metrics
from enginebay.loadtest.records import Record, RunKey
from enginebay.loadtest.result import DEFAULT_MARGIN, Run, Status
from enginebay.loadtest.run_checks import effective_settings, invalid_reasons, settings_differ
from enginebay.loadtest.runner import Runner
from enginebay.loadtest.timeseries import Sample, Sampler
from enginebay.loadtest.tokenizer import TextTokenizer
from enginebay.types import EngineStats


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A backend to be measured, and how to have it for one start."""

    label: str
    kind: str
    open: Callable[[], AbstractAsyncContextManager[Backend]]
    transport: str = "http"
    configured_settings: Mapping[str, object] = field(default_factory=dict[str, object])
    approximated_settings: frozenset[str] = frozenset()
    """Names of those that the plan turned into something near them."""
    image: str | None = None
    """Of a container."""
    model: str | None = None
    """As the config says it."""
    weights: str | None = None
    """Fingerprint of the model's files, where they are at hand."""


OPEN_LOOP_CONNECTIONS = 64
"""Opened in advance where nobody knows how many requests will be under way at a time."""


@runtime_checkable
class OpensConnections(Protocol):
    async def open_connections(self, num_connections: int) -> None: ...


class Watcher(Protocol):
    """Sees how a load test goes on. Called from the event loop: return at once."""

    def phase(self, label: str, what: str) -> None: ...

    def run_begins(self, run: RunKey, num_requests: int) -> None: ...

    def record(self, run: RunKey, record: Record) -> None: ...

    def run_ends(self, run: Run) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    slo: ServiceLevels = field(default_factory=ServiceLevels)
    num_starts: int = 1
    equivalence_margin: float = DEFAULT_MARGIN
    sample_interval_s: float = 0.5
    request_timeout_s: float | None = None


class Measurement:
    """`run()` measures and may be cancelled; `outcome()` makes the best of what there is by then."""

    def __init__(
        self,
        subject: Subject,
        backend: Backend,
        *,
        planned_load: PlannedLoad,
        start_index: int,
        clock: Clock,
        watcher: Watcher,
        settings: BenchSettings,
    ) -> None:
        self.key = RunKey(label=subject.label, load=planned_load.load, start_index=start_index)
        self.records: list[Record] = []
        self._subject, self._backend, self._planned_load = subject, backend, planned_load
        self._clock, self._watcher, self._settings = clock, watcher, settings
        self._runner = Runner(
            backend,
            clock=clock,
            on_record=self._on_record,
            request_timeout_s=settings.request_timeout_s,
            run_id=f"{subject.label}-{planned_load.load}-{start_index}".replace(" ", "-"),
        )
        self._sampler = Sampler(
            backend,
            run=self.key,
            clock=clock,
            started_at=lambda: self._runner.started_at,
            num_in_flight=lambda: self._runner.num_in_flight,
            interval_s=settings.sample_interval_s,
        )
        self._before: tuple[float, EngineStats] | None = None
        self._client_cpu_ratio = 0.0
        self._gpu_memory_used_bytes: tuple[int, ...] = ()

    @property
    def samples(self) -> list[Sample]:
        return self._sampler.samples

    async def run(self) -> None:
        await self._open_connections()
        await self._sampler.sample()
        self._before = self._sampler.latest
        self._watcher.run_begins(self.key, len(self._planned_load.requests))
        async with asyncio.TaskGroup() as beside:
            sampling = beside.create_task(self._sampler.run())
            try:
                await self._send_all()
            finally:
                sampling.cancel()
        await self._sampler.sample()
        self._gpu_memory_used_bytes = await asyncio.to_thread(gpu_memory_used_bytes)

    async def _open_connections(self) -> None:
        """Before anything is timed, so that no request pays for its connection."""
        inner = self._backend.inner if isinstance(self._backend, GuardedBackend) else self._backend
        if not isinstance(inner, OpensConnections):
            return
        num_requests = len(self._planned_load.requests)
        wanted = self._planned_load.load.users or min(num_requests, OPEN_LOOP_CONNECTIONS)
        # A server that refuses now will refuse the requests, and there it is counted.
        with suppress(BackendError):
            await inner.open_connections(wanted)

    async def _send_all(self) -> None:
        began_at, cpu_s = self._clock.now(), time.process_time()
        try:
            await self._runner.run(self._planned_load.requests, self._planned_load.load)
        finally:
            elapsed_s = self._clock.now() - began_at
            self._client_cpu_ratio = (time.process_time() - cpu_s) / elapsed_s if elapsed_s > 0 else 0.0

    def outcome(self, status: Status, *, tokenizer: TextTokenizer | None) -> Run:
        """The statistics and second token counts come here, when nothing is measured any more."""
        self.records.sort(key=lambda record: record.index)
        if tokenizer is not None:
            for record in self.records:
                record.num_retokenized_tokens = len(tokenizer.encode_plain(record.text))
        metrics = run_metrics(self.records, self._settings.slo, policy=self._policy())
        info = self._backend.info
        reasons = [
            *invalid_reasons(self._planned_load, self.records, metrics, status=status),
            *settings_differ(
                self._subject.configured_settings,
                info.effective_settings,
                approximated=self._subject.approximated_settings,
            ),
        ]
        return Run(
            backend=self._subject.kind,
            label=self.key.label,
            load=self.key.load,
            start_index=self.key.start_index,
            repeat=self.key.repeat,
            status=status,
            transport=self._subject.transport,
            simulated=info.simulated,
            model=info.model,
            engine_version=info.engine_version,
            configured_settings=dict(self._subject.configured_settings),
            effective_settings=effective_settings(self._subject.configured_settings, info.effective_settings),
            valid=not reasons,
            invalid_reasons=reasons,
            client_cpu_ratio=self._client_cpu_ratio,
            metrics=metrics,
            gpu_memory_used_bytes=self._gpu_memory_used_bytes,
            engine=self._engine(),
        )

    def _policy(self) -> PolicyMetrics:
        """From the readings before and after; of a cancelled run, up to the last sample."""
        after = self._sampler.latest
        if self._before is None or after is None:
            return PolicyMetrics()
        (before_at, before_stats), (after_at, after_stats) = self._before, after
        return policy_metrics(before_stats, after_stats, elapsed_s=after_at - before_at)

    def _engine(self) -> EngineFigures:
        after = self._sampler.latest
        if self._before is None or after is None:
            return EngineFigures()
        return engine_figures(self._before[1], after[1], self.samples)

    def _on_record(self, record: Record) -> None:
        self.records.append(record)
        self._watcher.record(self.key, record)
