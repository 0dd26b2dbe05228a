"""One load test: every backend started, warmed up, put under each load of the plan, and stopped before the next.

Whatever ends it early (Ctrl-C), what was measured until then is saved and marked `partial`. An engine that fails is no
reason not to measure the others: its failure is kept and raised at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from enginebay.backend import Backend
from enginebay.clock import Clock
from enginebay.errors import EngineBayError
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.measurement import BenchSettings, Measurement, Subject, Watcher
from enginebay.loadtest.plan import Load, Plan, PlannedLoad, save_plan
from enginebay.loadtest.records import RecordLine, write_records
from enginebay.loadtest.result import Failure, Result, Run, Status, save_result
from enginebay.loadtest.run_checks import check_plan_fits
from enginebay.loadtest.runner import Runner
from enginebay.loadtest.timeseries import Sample, write_samples
from enginebay.loadtest.tokenizer import TextTokenizer


class Bench:
    """Measures into the directory `out`; `tokenizer` counts the outputs a second time, after each run."""

    def __init__(
        self,
        plan: Plan,
        subjects: Sequence[Subject],
        *,
        out: Path,
        clock: Clock,
        watcher: Watcher,
        environment: Environment,
        settings: BenchSettings,
        tokenizer: TextTokenizer | None = None,
    ) -> None:
        self._plan, self._subjects, self._out = plan, subjects, out
        self._clock, self._watcher, self._environment = clock, watcher, environment
        self._settings, self._tokenizer = settings, tokenizer
        self._runs: list[Run] = []
        self._lines: list[RecordLine] = []
        self._samples: list[Sample] = []
        self._failures: list[Failure] = []
        self._failed: dict[str, EngineBayError] = {}
        """By label: what ended a start; that backend is not started again."""
        self.is_saved = False
        """Whether there is a result to report, also after `run` was cut short."""

    async def run(self) -> Result:
        """Raises the first failure when all backends have had their turn."""
        save_plan(self._plan, self._out / "plan.json")
        status: Status = "partial"
        try:
            for start_index in range(self._settings.num_starts):
                for subject in self._subjects:
                    if subject.label not in self._failed:
                        await self._measure_start(subject, start_index)
            status = "partial" if self._failed else "complete"
        finally:
            result = self._save(status)
        for error in self._failed.values():
            raise error
        return result

    async def _measure_start(self, subject: Subject, start_index: int) -> None:
        self._watcher.phase(subject.label, "starting")
        load: Load | None = None
        try:
            async with subject.open() as backend:
                for planned_load in self._plan.loads:
                    load = planned_load.load
                    check_plan_fits(planned_load, backend.info)
                for planned_load in self._plan.loads:
                    load = planned_load.load
                    await self._warm_up(subject, backend, planned_load)
                    await self._measure_run(subject, backend, planned_load, start_index=start_index)
                self._watcher.phase(subject.label, "stopping")
        except EngineBayError as error:
            self._failures.append(
                Failure(label=subject.label, load=load, error_class=type(error).__name__, message=str(error))
            )
            self._failed[subject.label] = error
            self._watcher.phase(subject.label, "failed")

    async def _warm_up(self, subject: Subject, backend: Backend, planned_load: PlannedLoad) -> None:
        if not planned_load.warmup:
            return
        self._watcher.phase(subject.label, "warming up")
        # Answers are thrown away; a warm-up that fails will fail again, and be counted, in the run.
        runner = Runner(
            backend,
            clock=self._clock,
            on_record=lambda record: None,
            request_timeout_s=self._settings.request_timeout_s,
            run_id=f"{subject.label}-warmup",
        )
        await runner.run(planned_load.warmup, Load(users=planned_load.load.users or len(planned_load.warmup)))

    async def _measure_run(
        self, subject: Subject, backend: Backend, planned_load: PlannedLoad, *, start_index: int
    ) -> None:
        measurement = Measurement(
            subject,
            backend,
            planned_load=planned_load,
            start_index=start_index,
            clock=self._clock,
            watcher=self._watcher,
            settings=self._settings,
        )
        status: Status = "partial"
        try:
            await measurement.run()
            status = "complete"
        finally:
            if measurement.records:
                self._keep(measurement, measurement.outcome(status, tokenizer=self._tokenizer))

    def _keep(self, measurement: Measurement, run: Run) -> None:
        self._runs.append(run)
        self._lines += [RecordLine(run=measurement.key, record=record) for record in measurement.records]
        self._samples += measurement.samples
        self._watcher.run_ends(run)
        self._save("partial")

    def _save(self, status: Status) -> Result:
        result = Result(
            status=status,
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            plan_sha256=self._plan.sha256,
            model=self._plan.model,
            workload=self._plan.workload,
            seed=self._plan.seed,
            slo=self._settings.slo,
            environment=self._environment,
            runs=tuple(self._runs),
            failures=tuple(self._failures),
        )
        write_records(self._out / "records.jsonl", self._lines)
        write_samples(self._out / "timeseries.jsonl", self._samples)
        save_result(result, self._out / "result.json")
        self.is_saved = True
        return result
