"""The capability matrix: what was measured, with what is declared beside it where the two differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from enginebay.probes.probe import Outcome
from enginebay.probes.saved import ProbedBackend, ProbeReport, SavedResult

Verdict = Literal["yes", "no", "failed", "unknown"]


@dataclass(frozen=True, slots=True)
class Cell:
    verdict: Verdict
    text: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    cells: tuple[Cell, ...]
    """One for each backend, in their order."""


@dataclass(frozen=True, slots=True)
class Problem:
    backend: str
    check: str
    detail: str


def feature_rows(report: ProbeReport) -> list[Row]:
    """One for each field of a request, and each other thing that a backend may offer."""
    features = _ordered(result.feature for backend in report.backends for result in backend.results)
    return [Row(feature, tuple(_feature_cell(backend, feature) for backend in report.backends)) for feature in features]


def check_rows(report: ProbeReport) -> list[Row]:
    """The checks that are not of one feature: every backend must pass them."""
    names = _ordered(result.name for backend in report.backends for result in backend.results if result.feature is None)
    return [Row(name, tuple(_check_cell(backend, name) for backend in report.backends)) for name in names]


def problems(report: ProbeReport) -> list[Problem]:
    found: list[Problem] = []
    for backend in report.backends:
        if backend.start_error is not None:
            found.append(Problem(backend.name, "start", backend.start_error))
        failed = [result for result in backend.results if result.outcome is Outcome.FAILED]
        found += [Problem(backend.name, result.name, result.detail) for result in failed]
    return found


def heading(backend: ProbedBackend) -> str:
    """Name, what is behind it, and whether that is real."""
    kind = "" if backend.kind == backend.name else backend.kind
    parts = [backend.name, kind, backend.engine_version or "", "SIMULATED" if backend.simulated else ""]
    return " ".join(filter(None, parts))


def _feature_cell(backend: ProbedBackend, feature: str) -> Cell:
    results = [result for result in backend.results if result.feature == feature]
    is_declared = feature in backend.declared_features
    if not results:
        return Cell("unknown", "not probed")
    failed = [result for result in results if result.outcome is Outcome.FAILED]
    if failed:
        declared = "declared" if is_declared else "not declared"
        return Cell("failed", f"FAILED {len(failed)} of {len(results)}, {declared}", _details(failed))
    if all(result.outcome is Outcome.UNSUPPORTED for result in results):
        return Cell("no", "no")
    passed = [result for result in results if result.outcome is Outcome.PASSED]
    if not passed:
        return Cell("unknown", "not told, declared" if is_declared else "not told", _details(results))
    return Cell("yes", "yes", _details(passed))


def _check_cell(backend: ProbedBackend, name: str) -> Cell:
    result = next((result for result in backend.results if result.name == name), None)
    if result is None:
        return Cell("unknown", "not probed")
    texts: dict[Outcome, tuple[Verdict, str]] = {
        Outcome.PASSED: ("yes", "passed"),
        Outcome.FAILED: ("failed", "FAILED"),
        Outcome.UNSUPPORTED: ("no", "no"),
        Outcome.SKIPPED: ("unknown", "not told"),
    }
    return Cell(*texts[result.outcome], result.detail)


def _details(results: Sequence[SavedResult]) -> str:
    return "; ".join(filter(None, (result.detail for result in results)))


def _ordered(names: Iterable[str | None]) -> list[str]:
    return list(dict.fromkeys(name for name in names if name is not None))
