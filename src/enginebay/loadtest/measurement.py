"""One run: the load on one started backend, its statistics beside it, and what came of both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from enginebay.backend import Backend
from enginebay.clock import Clock
from enginebay.errors import LoadTestError
from enginebay.loadtest.client_health import ProcessFigures, client_health
from enginebay.loadtest.engine_figures import EngineFigures, engine_figures
from enginebay.loadtest.environment import gpu_memory_used_bytes, num_cores
from enginebay.loadtest.fleet import Fleet, num_processes_for
from enginebay.loadtest.metrics import ServiceLevels, run_metrics
from enginebay.loadtest.plan import Load, PlannedLoad, PlannedRequest
from enginebay.loadtest.policy_metrics import PolicyMetrics, policy_metrics
from enginebay.loadtest.reaching import reach_of
from enginebay.loadtest.records import Record, RunKey
from enginebay.loadtest.result import DEFAULT_MARGIN, Conduct, MeasuredSubject, Run, Status
from enginebay.loadtest.self_check.ceiling import ClientCeiling
from enginebay.loadtest.sent.sent import Sent
from enginebay.loadtest.single_process import SingleProcess
from enginebay.loadtest.timeseries import Sample, Sampler
from enginebay.loadtest.tokenizer import TextTokenizer
from enginebay.loadtest.validity.checks import validity
from enginebay.loadtest.validity.evidence import Evidence
from enginebay.loadtest.validity.settings import effective_settings
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
    is_restarted: bool = True
    """False of a server that others run."""
    url: str | None = None
    """Of such a server, without a password that may stand in it."""


def measured_subject(subject: Subject) -> MeasuredSubject:
    return MeasuredSubject(
        label=subject.label,
        backend=subject.kind,
        image=subject.image,
        model=subject.model,
        weights=subject.weights,
        is_restarted=subject.is_restarted,
        url=subject.url,
    )


class Replayer(Protocol):
    """Who replays a load: this process, or several."""

    @property
    def started_at(self) -> float:
        """All instants of the records count from here."""
        ...

    @property
    def num_in_flight(self) -> int: ...

    @property
    def figures(self) -> Sequence[ProcessFigures]: ...

    @property
    def sent(self) -> list[Sent] | None:
        """What was given to the sockets; to be asked when the run is over. None where there are none."""
        ...

    async def replay(self, requests: Sequence[PlannedRequest], load: Load) -> None: ...

    @property
    def losses(self) -> Sequence[str]:
        """In words, when the run is over: records that are missing, and why."""
        ...

    async def finish(self) -> None:
        """The records that are still to come. Always to be called, also after a replay that was cancelled."""
        ...


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
    percentiles: tuple[float, ...] = ()
    """That a run must have enough requests for."""
    ceiling: ClientCeiling | None = None
    """Of the client on this machine, where it was measured."""
    num_logprob_prompts: int = 0
    """Asked again of each backend after its first start's loads, with log-probabilities, where two are compared."""
    num_client_processes: int | None = None
    """None: as few as can make the load."""

    @property
    def conduct(self) -> Conduct:
        return Conduct(
            request_timeout_s=self.request_timeout_s,
            percentiles=self.percentiles,
            client_processes=self.num_client_processes,
            sample_interval_s=self.sample_interval_s,
            logprob_prompts=self.num_logprob_prompts,
        )


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
        repeat: int = 0,
        on_begin: Callable[[], None] = lambda: None,
        on_over: Callable[[], None] = lambda: None,
    ) -> None:
        """repeat: number of this replay, where one load comes several times on one start.

        on_begin, on_over: around the load alone, without what is prepared before it and decoded after it.
        """
        self._on_begin, self._on_over = on_begin, on_over
        self.key = RunKey(label=subject.label, load=planned_load.load, start_index=start_index, repeat=repeat)
        self.records: list[Record] = []
        self._subject, self._backend, self._planned_load = subject, backend, planned_load
        self._clock, self._watcher, self._settings = clock, watcher, settings
        self._replayer = self._new_replayer(
            f"{subject.label}-{planned_load.load}-{start_index}-{repeat}".replace(" ", "-")
        )
        self._sampler = Sampler(
            backend,
            run=self.key,
            clock=clock,
            started_at=lambda: self._replayer.started_at,
            num_in_flight=lambda: self._replayer.num_in_flight,
            interval_s=settings.sample_interval_s,
        )
        self._before: tuple[float, EngineStats] | None = None
        self._gpu_memory_used_bytes: tuple[int, ...] = ()

    @property
    def started_at(self) -> float:
        """On the clock; all instants of the records count from here."""
        return self._replayer.started_at

    @property
    def samples(self) -> list[Sample]:
        return self._sampler.samples

    def _new_replayer(self, run_id: str) -> Replayer:
        requests, load = self._planned_load.requests, self._planned_load.load
        asked = self._settings.num_client_processes
        num_processes = asked or num_processes_for(requests, load, num_cores=num_cores())
        reach = reach_of(self._backend) if num_processes > 1 else None
        if asked is not None and asked > 1 and reach is None:
            raise LoadTestError(f"{self._subject.label!r} is in this process: no other process can be its client")
        if reach is None:
            return SingleProcess(
                self._backend,
                clock=self._clock,
                on_record=self._on_record,
                request_timeout_s=self._settings.request_timeout_s,
                run_id=run_id,
                on_begin=self._on_begin,
            )
        return Fleet(
            reach,
            num_processes=num_processes,
            clock=self._clock,
            on_record=self._on_record,
            request_timeout_s=self._settings.request_timeout_s,
            run_id=run_id,
            on_begin=self._on_begin,
        )

    @property
    def sent(self) -> list[Sent]:
        """Hashed at this call."""
        return self._replayer.sent or []

    async def run(self) -> None:
        await self._sampler.sample()
        self._before = self._sampler.latest
        self._watcher.run_begins(self.key, len(self._planned_load.requests))
        sampling = asyncio.create_task(self._sampler.run(), name="sampling of the load test")
        try:
            try:
                await self._replayer.replay(self._planned_load.requests, self._planned_load.load)
            finally:
                self._on_over()
                sampling.cancel()
                await asyncio.wait({sampling})
            await self._sampler.sample()  # before the decoding, which takes time that is none of the run's
        finally:
            if isinstance(self._replayer, Fleet):
                self._watcher.phase(self.key.label, "collecting records")
            await self._replayer.finish()
        self._gpu_memory_used_bytes = await asyncio.to_thread(gpu_memory_used_bytes)

    def outcome(self, status: Status, *, tokenizer: TextTokenizer | None) -> Run:
        """The statistics and second token counts come here, when nothing is measured any more."""
        self.records.sort(key=lambda record: record.index)
        if tokenizer is not None:
            for record in self.records:
                record.retokenized_ids = tokenizer.encode_plain(record.text)
                record.num_retokenized_tokens = len(record.retokenized_ids)
        metrics = run_metrics(self.records, self._settings.slo, policy=self._policy())
        info = self._backend.info
        client = client_health(self.records, processes=self._replayer.figures, load=self.key.load)
        found = validity(
            Evidence(
                planned_load=self._planned_load,
                records=self.records,
                metrics=metrics,
                status=status,
                client=client,
                ceiling=self._settings.ceiling,
                samples=self.samples,
                percentiles=self._settings.percentiles,
                configured_settings=self._subject.configured_settings,
                told_settings=info.effective_settings,
                approximated_settings=self._subject.approximated_settings,
                losses=self._replayer.losses,
            )
        )
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
            valid=not found.reasons,
            invalid_reasons=list(found.reasons),
            unchecked=list(found.unchecked),
            client_cpu_ratio=max(client.cpu_ratios, default=0.0),
            client=client,
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
