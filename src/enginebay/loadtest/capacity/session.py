"""The search on every backend: started, searched, stopped before the next. What was found is saved as it comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from enginebay.errors import EngineBayError
from enginebay.loadtest.capacity.kept import KeptSearches, Start
from enginebay.loadtest.capacity.probing import Probed
from enginebay.loadtest.capacity.result import FILE_NAME, RECORDS, SAMPLES, CapacityResult, save_capacity
from enginebay.loadtest.capacity.start_search import SearchTools, StartSearch
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.measurement import Subject, measured_subject
from enginebay.loadtest.records import RecordLine, write_records
from enginebay.loadtest.result import Failure
from enginebay.loadtest.result_folder import demand_free, make_free
from enginebay.loadtest.schedule import rounds
from enginebay.loadtest.timeseries import write_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What the probes ask, for the result."""

    model: str
    workload: str
    seed: int
    asked: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """All else of `bench:` that the probes depend on."""


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
        kept: KeptSearches | None = None,
        replaces: bool = False,
    ) -> None:
        """kept: what is gone on with. replaces: whether a capacity that `out` holds already may be lost."""
        self._replaces, self._goes_on = replaces, kept is not None
        kept = kept or KeptSearches()
        self._subjects = {subject.label: subject for subject in subjects}
        self._tools, self._searched, self._out, self._environment = tools, searched, out, environment
        self._capacities = dict(kept.capacities)
        self._failures = list(kept.failures)
        self._session = kept.num_sessions
        self._errors: dict[str, EngineBayError] = {}
        """By label: what ended its searches."""
        self._lines, self._samples = list(kept.lines), list(kept.samples)
        self.is_saved = False
        """Whether there is a result to report, also after `run` was cut short."""

    async def run(self) -> CapacityResult:
        """Raises the first failure when all backends have had their turn, and ResultExists before anything is done."""
        if self._replaces:
            make_free(self._out, FILE_NAME)
        elif not self._goes_on:
            demand_free(self._out, FILE_NAME)
        try:
            for start_index, label in rounds(list(self._subjects), self._tools.settings.num_starts):
                if label not in self._errors and not self._is_done(label, start_index):
                    await self._search_on(self._subjects[label], start_index)
        finally:
            result = self._save()
        for error in self._errors.values():
            raise error
        return result

    def _is_done(self, label: str, start_index: int) -> bool:
        earlier = self._capacities.get((label, start_index))
        return earlier is not None and earlier.status == "complete"

    async def _search_on(self, subject: Subject, start_index: int) -> None:
        self._tools.watcher.phase(subject.label, "starting")
        start = (subject.label, start_index)
        try:
            async with subject.open() as backend:
                search = StartSearch(
                    self._tools,
                    subject,
                    backend,
                    start_index=start_index,
                    session=self._session,
                    earlier=self._capacities.get(start),
                    on_probed=lambda probed: self._keep(start, search, probed),
                )
                await search.run()
                self._capacities[start] = search.capacity("complete")
                self._tools.watcher.phase(subject.label, "stopping")
            self._make_good(start)
        except EngineBayError as error:
            self._keep_failure(subject, error, start_index=start_index)

    def _keep(self, start: Start, search: StartSearch, probed: Probed) -> None:
        """At once: a probe takes minutes, and whatever ends this process must not cost more than the one under way."""
        self._capacities[start] = search.capacity("partial")
        self._lines += [RecordLine(run=probed.run.key, record=record) for record in probed.records]
        self._samples += probed.samples
        self._save()

    def _make_good(self, start: Start) -> None:
        self._failures = [
            msgspec.structs.replace(failure, is_made_good=True)
            if (failure.label, failure.start_index) == start
            else failure
            for failure in self._failures
        ]

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
            capacities=tuple(self._capacities.values()),
            failures=tuple(self._failures),
            asked=dict(self._searched.asked),
            subjects=tuple(measured_subject(subject) for subject in self._subjects.values()),
            configured_settings={label: dict(subject.configured_settings) for label, subject in self._subjects.items()},
            num_sessions=self._session + 1,
        )
        write_records(self._out / RECORDS, self._lines)
        write_samples(self._out / SAMPLES, self._samples)
        save_capacity(result, self._out / FILE_NAME)
        self.is_saved = True
        return result
