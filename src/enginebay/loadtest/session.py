"""One load test: every backend started, warmed up, put under each load of the plan, and stopped before the next.

Whatever ends it early (Ctrl-C), what was measured until then is saved and marked `partial`. An engine that fails is no
reason not to measure the others: its failure is kept and raised at the end. One that was measured before gets its
further starts; one that never came up does not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from enginebay.backend import Backend
from enginebay.clock import Clock
from enginebay.errors import EngineBayError, NotComparable
from enginebay.loadtest.answers import FILE_NAME as ANSWERS_FILE_NAME
from enginebay.loadtest.answers import AnswerLine, write_answers
from enginebay.loadtest.asking import ask
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.kept import Kept
from enginebay.loadtest.measurement import BenchSettings, Measurement, Subject, Watcher, measured_subject
from enginebay.loadtest.plan import Load, Plan, PlannedLoad, save_plan
from enginebay.loadtest.plan_fit import check_plan_fits
from enginebay.loadtest.records import RecordLine, write_records
from enginebay.loadtest.result import Failure, Origin, Result, Run, Status, save_result
from enginebay.loadtest.result_folder import RESULT, demand_free, make_free
from enginebay.loadtest.runner import Runner
from enginebay.loadtest.schedule import Estimator, Speed, TimeEstimate, rounds
from enginebay.loadtest.sent.sent import FILE_NAME as SENT_FILE_NAME
from enginebay.loadtest.sent.sent import SentLine, write_sent
from enginebay.loadtest.timeseries import write_samples
from enginebay.loadtest.tokenizer import TextTokenizer
from enginebay.types import BackendInfo


class Bench:
    """Measures into the directory `out`; `tokenizer` counts the outputs a second time, after each run.

    kept: what an earlier load test has measured of the same plan; those starts are not measured again.
    replaces: whether a result that `out` holds already, and that is not gone on with, may be lost.
    speeds: of backends that were asked something already, by label.
    on_estimate: told how long the rest will take, before the first start and after each.
    """

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
        origin: Origin | None = None,
        kept: Kept | None = None,
        replaces: bool = False,
        speeds: Mapping[str, Speed] | None = None,
        on_estimate: Callable[[TimeEstimate], None] = lambda estimate: None,
    ) -> None:
        self._replaces = replaces
        self._goes_on = kept is not None
        kept = kept or Kept()
        self._plan, self._out, self._origin = plan, out, origin
        self._subjects = {subject.label: subject for subject in subjects}
        self._clock, self._watcher, self._environment = clock, watcher, environment
        self._settings, self._tokenizer, self._on_estimate = settings, tokenizer, on_estimate
        self._runs, self._lines, self._samples = list(kept.runs), list(kept.lines), list(kept.samples)
        self._sent, self._answers = list(kept.sent), list(kept.answers)
        self._failures = list(kept.failures)
        self._errors: dict[str, EngineBayError] = {}
        """By label: what ended a start first."""
        self._left = [start for start in rounds(list(self._subjects), settings.num_starts) if start not in kept.starts]
        kept_up = {subject.label: Speed(start_s=0.0) for subject in subjects if not subject.is_restarted}
        self._estimator = Estimator(plan.loads_of_start(0), kept_up | dict(speeds or {}))
        self._estimator.learn(kept.runs)
        self._order = max((run.order + 1 for run in kept.runs), default=0)
        self._start_duration_s = 0.0
        self.is_saved = False
        """Whether there is a result to report, also after `run` was cut short."""

    @property
    def estimate(self) -> TimeEstimate:
        """Of the starts that are left."""
        return self._estimator.estimate(Counter(label for _, label in self._left))

    async def run(self) -> Result:
        """Raises the first failure when all backends have had their turn, and ResultExists before anything is done."""
        if self._replaces:
            make_free(self._out, RESULT)
        elif not self._goes_on:
            demand_free(self._out, RESULT)
        save_plan(self._plan, self._out / "plan.json")
        if self._goes_on:
            self._save("partial")  # at once: the plan may have more starts than that of the result that is there
        status: Status = "partial"
        try:
            await self._measure_starts()
            status = "partial" if self._errors else "complete"
        finally:
            result = self._save(status)
        for error in self._errors.values():
            raise error
        return result

    async def _measure_starts(self) -> None:
        self._on_estimate(self.estimate)
        while self._left:
            start_index, label = self._left[0]
            began_at = self._clock.now()
            await self._measure_start(self._subjects[label], start_index)
            self._estimator.measured(label, self._clock.now() - began_at)
            self._order += 1
            self._left = [start for start in self._left[1:] if not self._is_hopeless(start[1])]
            self._on_estimate(self.estimate)

    def _is_hopeless(self, label: str) -> bool:
        """It failed, and has never been measured to the end."""
        return label in self._errors and not any(run.label == label and run.status == "complete" for run in self._runs)

    async def _measure_start(self, subject: Subject, start_index: int) -> None:
        self._watcher.phase(subject.label, "starting")
        load: Load | None = None
        began_at = self._clock.now()
        try:
            async with subject.open() as backend:
                self._demand_same_engine(subject.label, backend.info)
                self._start_duration_s = self._clock.now() - began_at
                planned_loads = self._plan.loads_of_start(start_index)
                for planned_load in planned_loads:
                    load = planned_load.load
                    check_plan_fits(planned_load, backend.info)
                for planned_load in planned_loads:
                    load = planned_load.load
                    await self._warm_up(subject, backend, planned_load)
                    await self._measure_run(subject, backend, planned_load, start_index=start_index)
                if start_index == 0 and len(self._subjects) > 1:
                    await self._ask(subject, backend, planned_loads[0])
                self._watcher.phase(subject.label, "stopping")
            self._make_good(subject.label, start_index)
        except EngineBayError as error:
            self._keep_failure(subject, error, load=load, start_index=start_index)

    def _demand_same_engine(self, label: str, info: BackendInfo) -> None:
        """As in the runs so far, which may be those of another day."""
        for run in self._runs:
            was, now = (run.engine_version, run.model), (info.engine_version, info.model)
            if run.label == label and any(a != b for a, b in zip(was, now, strict=True) if a and b):
                raise NotComparable(
                    f"{label} is version {now[0]} with model {now[1]} now, and was version {was[0]} with model "
                    f"{was[1]} in start {run.start_index + 1}: measure all starts with one, into another folder"
                )

    def _make_good(self, label: str, start_index: int) -> None:
        """This start of an earlier load test had failed."""
        self._failures = [
            msgspec.structs.replace(failure, is_made_good=True)
            if (failure.label, failure.start_index) == (label, start_index)
            else failure
            for failure in self._failures
        ]

    async def _ask(self, subject: Subject, backend: Backend, planned_load: PlannedLoad) -> None:
        """Once, when this start has nothing left to measure."""
        requests = planned_load.requests[: self._settings.num_logprob_prompts]
        answers = await ask(backend, requests, timeout_s=self._settings.request_timeout_s)
        self._answers += [AnswerLine(label=subject.label, answer=answer) for answer in answers]

    def _keep_failure(self, subject: Subject, error: EngineBayError, *, load: Load | None, start_index: int) -> None:
        self._failures.append(
            Failure(
                label=subject.label,
                load=load,
                error_class=type(error).__name__,
                message=str(error),
                start_index=start_index,
            )
        )
        self._errors.setdefault(subject.label, error)
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
        run = msgspec.structs.replace(run, order=self._order, start_duration_s=self._start_duration_s)
        self._runs.append(run)
        self._lines += [RecordLine(run=measurement.key, record=record) for record in measurement.records]
        self._samples += measurement.samples
        self._sent += [SentLine(run=measurement.key, sent=sent) for sent in measurement.sent]
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
            num_starts=self._settings.num_starts,
            equivalence_margin=self._settings.equivalence_margin,
            subjects=tuple(measured_subject(subject) for subject in self._subjects.values()),
            origin=self._origin,
            conduct=self._settings.conduct,
            prompt_counts=self._plan.prompt_counts,
        )
        write_records(self._out / "records.jsonl", self._lines)
        write_samples(self._out / "timeseries.jsonl", self._samples)
        write_sent(self._out / SENT_FILE_NAME, self._sent)
        write_answers(self._out / ANSWERS_FILE_NAME, self._answers)
        save_result(result, self._out / RESULT)
        self.is_saved = True
        return result
