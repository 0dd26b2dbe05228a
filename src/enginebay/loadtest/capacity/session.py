"""The search on every backend: started, searched, stopped before the next. What was found is saved as it comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from enginebay.errors import EngineBayError
from enginebay.loadtest.capacity.result import FILE_NAME, BackendCapacity, CapacityResult, save_capacity
from enginebay.loadtest.capacity.start_search import SearchTools, StartSearch
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.measurement import Subject
from enginebay.loadtest.records import RecordLine, write_records
from enginebay.loadtest.result import Failure
from enginebay.loadtest.result_folder import demand_free, make_free
from enginebay.loadtest.schedule import rounds
from enginebay.loadtest.timeseries import Sample, write_samples

RECORDS, SAMPLES = "capacity-records.jsonl", "capacity-timeseries.jsonl"
"""Of the probes. A result in the same folder has records of its own, and a certificate that holds their hash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What the probes ask, for the result."""

    model: str
    workload: str
    seed: int


class CapacityBench:
    """Measures into the directory `out`."""

    def __init__(
        self,
        subjects: Sequence[Subject],
        tools: SearchTools,
        *,
        searched: Searched,
        out: Path,
        environment: Environment,
        replaces: bool = False,
    ) -> None:
        """replaces: whether a capacity that `out` holds already may be lost."""
        self._replaces = replaces
        self._subjects = {subject.label: subject for subject in subjects}
        self._tools, self._searched, self._out, self._environment = tools, searched, out, environment
        self._capacities: list[BackendCapacity] = []
        self._failures: list[Failure] = []
        self._errors: dict[str, EngineBayError] = {}
        """By label: what ended its searches."""
        self._lines: list[RecordLine] = []
        self._samples: list[Sample] = []
        self.is_saved = False
        """Whether there is a result to report, also after `run` was cut short."""

    async def run(self) -> CapacityResult:
        """Raises the first failure when all backends have had their turn, and ResultExists before anything is done."""
        if self._replaces:
            make_free(self._out, FILE_NAME)
        else:
            demand_free(self._out, FILE_NAME)
        try:
            for start_index, label in rounds(list(self._subjects), self._tools.settings.num_starts):
                if label not in self._errors:
                    await self._search_on(self._subjects[label], start_index)
        finally:
            result = self._save()
        for error in self._errors.values():
            raise error
        return result

    async def _search_on(self, subject: Subject, start_index: int) -> None:
        self._tools.watcher.phase(subject.label, "starting")
        try:
            async with subject.open() as backend:
                search = StartSearch(self._tools, subject, backend, start_index=start_index)
                try:
                    await search.run()
                finally:
                    self._keep(search)
                self._tools.watcher.phase(subject.label, "stopping")
        except EngineBayError as error:
            self._keep_failure(subject, error, start_index=start_index)

    def _keep(self, search: StartSearch) -> None:
        if not search.probed:
            return
        self._capacities.append(search.capacity())
        for probed in search.probed:
            self._lines += [RecordLine(run=probed.run.key, record=record) for record in probed.records]
            self._samples += probed.samples
        self._save()

    def _keep_failure(self, subject: Subject, error: EngineBayError, *, start_index: int) -> None:
        self._failures.append(
            Failure(
                label=subject.label,
                load=None,
                error_class=type(error).__name__,
                message=str(error),
                start_index=start_index,
            )
        )
        self._errors[subject.label] = error
        self._tools.watcher.phase(subject.label, "failed")

    def _save(self) -> CapacityResult:
        result = CapacityResult(
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            model=self._searched.model,
            workload=self._searched.workload,
            seed=self._searched.seed,
            levels=self._tools.settings.levels,
            environment=self._environment,
            capacities=tuple(self._capacities),
            failures=tuple(self._failures),
        )
        write_records(self._out / RECORDS, self._lines)
        write_samples(self._out / SAMPLES, self._samples)
        save_capacity(result, self._out / FILE_NAME)
        self.is_saved = True
        return result
