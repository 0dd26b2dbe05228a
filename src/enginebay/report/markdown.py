"""report.md: the same tables as text, for a pull request or a repository."""

from __future__ import annotations

from collections.abc import Iterator

from enginebay.loadtest.metrics import Distribution
from enginebay.report.data import LoadReport, Report
from enginebay.report.errors_table import error_rows
from enginebay.report.figures_table import DISTRIBUTIONS, PERCENTILES, headline_rows, policy_rows
from enginebay.report.numbers import count, duration, size, times
from enginebay.report.summary import summary


def render_markdown(report: Report) -> str:
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# Load test of {report.result.model}"
    yield ""
    if report.is_simulated:
        yield "> **SIMULATED**: at least one side is a simulator. These are not figures of an engine."
        yield ""
    yield from (f"- {_escaped(sentence)}" for sentence in summary(report))
    for load in report.loads:
        yield from ("", f"## {load.load}", "")
        yield from _headline(load, report)
        yield from ("", "### Latencies", "")
        yield from _latencies(load)
    yield from _errors(report)
    yield from _origin(report)


def _headline(load: LoadReport, report: Report) -> Iterator[str]:
    metrics = [run.run.metrics for run in load.runs]
    slo = report.result.slo
    has_levels = any(level is not None for level in (slo.ttft_s, slo.tpot_s, slo.e2e_s))
    yield _row("", *(_heading(run.name, run.run.valid, run.run.simulated) for run in load.runs))
    yield "|---|" + "---:|" * len(load.runs)
    for row in (*headline_rows(metrics, has_levels=has_levels), *policy_rows(metrics)):
        cells = [row.text(metrics[0])]
        for item in metrics[1:]:
            ratio = row.ratio(item, metrics[0])
            cells.append(row.text(item) + (f" ({times(ratio)})" if ratio is not None else ""))
        yield _row(row.title, *cells)


def _latencies(load: LoadReport) -> Iterator[str]:
    yield _row("", "", *PERCENTILES)
    yield "|---|---|" + "---:|" * len(PERCENTILES)
    for name, title, _ in DISTRIBUTIONS:
        for run in load.runs:
            distribution: Distribution | None = getattr(run.run.metrics, name)
            values = [None if distribution is None else getattr(distribution, each) for each in PERCENTILES]
            yield _row(title, _escaped(run.name), *(duration(value) for value in values))


def _errors(report: Report) -> Iterator[str]:
    rows = error_rows(report)
    if not rows:
        return
    yield from ("", "## Errors", "", _row("run", "error", "message", "requests"), "|---|---|---|---:|")
    for row in rows:
        yield _row(_escaped(row.run), row.error_class, _escaped(row.message), count(row.num_requests))


def _origin(report: Report) -> Iterator[str]:
    result, environment = report.result, report.result.environment
    yield from ("", "## Where it was measured", "")
    yield f"- plan: `{result.plan_sha256}` ({result.workload}, seed {result.seed})"
    transports = ", ".join(sorted({run.run.transport for run in report.runs})) or "none"
    yield f"- transport: {transports}; measured {result.created_at}"
    yield f"- {environment.cpu}, {environment.num_cores} cores, {size(environment.memory_bytes)} memory"
    yield f"- {environment.operating_system}, {environment.python}"
    yield "- " + ", ".join(f"{name} {version}" for name, version in environment.packages.items())


def _heading(name: str, valid: bool, simulated: bool) -> str:
    return _escaped(name) + (" **SIMULATED**" if simulated else "") + ("" if valid else " **INVALID**")


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
