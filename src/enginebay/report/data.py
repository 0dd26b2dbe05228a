"""A folder of results, read back: each run with its own records and samples, and a name that is short and its own."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from enginebay.loadtest.capacity.result import CapacityResult
from enginebay.loadtest.metrics import Metrics
from enginebay.loadtest.plan import Load
from enginebay.loadtest.records import Record, RunKey, read_records
from enginebay.loadtest.result import Result, Run, load_result
from enginebay.loadtest.timeseries import Sample, read_samples
from enginebay.probes.saved import ProbeReport
from enginebay.report.capacity_report import load_searched
from enginebay.report.probes_section import load_probes
from enginebay.verdict.certificate.certificate import FILE_NAME as CERTIFICATE
from enginebay.verdict.certificate.certificate import Certificate, load_certificate
from enginebay.verdict.verdict import FILE_NAME as VERDICT
from enginebay.verdict.verdict import Verdict, load_verdict


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    run: Run
    name: str
    """Within runs of one load: the label, and the number of the start where there are several."""
    color_index: int
    """The same for all runs of one label."""
    records: Sequence[Record]
    samples: Sequence[Sample]

    is_first_start: bool = True
    """Of its label under its load."""

    @property
    def is_comparable(self) -> bool:
        """An invalid or simulated run is shown with its figures, but has no rank and no ratio."""
        return self.run.valid and not self.run.simulated

    def has_ratio_to(self, first: RunReport) -> bool:
        return self is not first and self.is_comparable and first.is_comparable


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One label under one load, with all its starts: what tables set side by side."""

    name: str
    runs: tuple[RunReport, ...]

    @property
    def color_index(self) -> int:
        return self.runs[0].color_index

    @property
    def is_valid(self) -> bool:
        return all(run.run.valid for run in self.runs)

    @property
    def is_simulated(self) -> bool:
        return any(run.run.simulated for run in self.runs)

    @property
    def metrics(self) -> list[Metrics]:
        """Of each start."""
        return [run.run.metrics for run in self.runs]

    def has_ratio_to(self, first: Side) -> bool:
        """An invalid or simulated run is shown with its figures, but has no rank and no ratio."""
        return self.name != first.name and self.is_comparable and first.is_comparable

    @property
    def is_comparable(self) -> bool:
        return all(run.is_comparable for run in self.runs)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """The runs that may be set side by side: one load, in the order in which they were asked for."""

    load: Load
    runs: tuple[RunReport, ...]

    @property
    def sides(self) -> tuple[Side, ...]:
        labels = dict.fromkeys(run.run.label for run in self.runs)
        return tuple(
            Side(name=label, runs=tuple(run for run in self.runs if run.run.label == label)) for label in labels
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    result: Result
    loads: tuple[LoadReport, ...]
    probes: ProbeReport | None = None
    """What `enginebay backends --check` saved in the folder."""
    verdict: Verdict | None = None
    """Of several backends; None where one was measured alone."""
    certificate: Certificate | None = None
    """Of what was sent; None where nobody has audited it."""
    capacity: CapacityResult | None = None
    """What `bench --capacity` saved in the folder."""

    @property
    def invalid_runs(self) -> tuple[RunReport, ...]:
        return tuple(run for run in self.runs if not run.run.valid)

    @property
    def runs(self) -> tuple[RunReport, ...]:
        return tuple(run for load in self.loads for run in load.runs)

    @property
    def labels(self) -> list[str]:
        """Of what was measured or was meant to be."""
        of_failures = [failure.label for failure in self.result.failures]
        return list(dict.fromkeys([*(run.label for run in self.result.runs), *of_failures]))

    @property
    def ending(self) -> str:
        """How it ended, in words; empty when it was done."""
        if self.result.status == "complete":
            return ""
        return (
            "ended by a failure"
            if any(not failure.is_made_good for failure in self.result.failures)
            else "stopped before its end"
        )

    @property
    def is_simulated(self) -> bool:
        return any(run.run.simulated for run in self.runs)


def load_report(folder: Path) -> Report:
    """Raises LoadTestError. Records and samples may be missing: then there are tables, but fewer plots."""
    result = load_result(folder)
    records: dict[RunKey, list[Record]] = defaultdict(list)
    samples: dict[RunKey, list[Sample]] = defaultdict(list)
    if (folder / "records.jsonl").exists():
        for line in read_records(folder / "records.jsonl"):
            records[line.run].append(line.record)
    if (folder / "timeseries.jsonl").exists():
        for sample in read_samples(folder / "timeseries.jsonl"):
            samples[sample.run].append(sample)
    return replace(
        make_report(result, records, samples),
        probes=load_probes(folder),
        verdict=load_verdict(folder) if (folder / VERDICT).exists() else None,
        certificate=load_certificate(folder) if (folder / CERTIFICATE).exists() else None,
        capacity=load_searched(folder),
    )


def make_report(result: Result, records: dict[RunKey, list[Record]], samples: dict[RunKey, list[Sample]]) -> Report:
    labels = list(dict.fromkeys(run.label for run in result.runs))
    has_starts = any(run.start_index or run.repeat for run in result.runs)
    reports = [
        RunReport(
            run=run,
            name=_name(run) if has_starts else run.label,
            color_index=labels.index(run.label),
            records=records.get(run.key, []),
            samples=samples.get(run.key, []),
            is_first_start=run.start_index == _first_start(run, result.runs),
        )
        for run in result.runs
    ]
    loads = dict.fromkeys(run.load for run in result.runs)
    return Report(
        result=result,
        loads=tuple(
            LoadReport(load=load, runs=tuple(report for report in reports if report.run.load == load)) for load in loads
        ),
    )


def _first_start(run: Run, runs: Sequence[Run]) -> int:
    return min(other.start_index for other in runs if (other.label, other.load) == (run.label, run.load))


def _name(run: Run) -> str:
    name = f"{run.label}, start {run.start_index + 1}"
    return f"{name}, repeat {run.repeat + 1}" if run.repeat else name
