"""report.md: the same tables as text, for a pull request or a repository."""

from __future__ import annotations

from collections.abc import Iterator

from enginebay.loadtest.metrics import Distribution
from enginebay.loadtest.result import MADE_GOOD
from enginebay.report.capacity_report import capacity_markdown
from enginebay.report.certificate_words import certificate_headline, certificate_lines
from enginebay.report.counting_words import counting_words
from enginebay.report.data import LoadReport, Report, Side
from enginebay.report.errors_table import error_rows
from enginebay.report.figures_table import COUNTS, DISTRIBUTIONS, PERCENTILES, Row, headline_rows, policy_rows
from enginebay.report.numbers import count, named, share, size, times
from enginebay.report.probes_section import probes_markdown
from enginebay.report.summary import summary
from enginebay.report.verdict_section import verdict_markdown
from enginebay.verdict.certificate.certificate import Certificate


def render_markdown(report: Report) -> str:
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield f"# Load test of {report.result.model}"
    yield ""
    if report.is_simulated:
        yield "> **SIMULATED**: at least one side is a simulator. These are not figures of an engine."
        yield ""
    yield from verdict_markdown(report.verdict)
    yield from (f"- {_escaped(sentence)}" for sentence in summary(report))
    yield from _validity(report)
    yield from _certificate(report.certificate)
    for load in report.loads:
        yield from ("", f"## {load.load}", "")
        yield from _headline(load, report)
        yield from ("", "### Latencies and lengths", "")
        yield from _latencies(load)
        yield from ("", "### Counts", "")
        yield from _counts(load)
    yield from capacity_markdown(report.capacity)
    yield from _failures(report)
    yield from _errors(report)
    yield from probes_markdown(report.probes)
    yield from _settings(report)
    yield from _origin(report)


def _headline(load: LoadReport, report: Report) -> Iterator[str]:
    metrics = [run.run.metrics for run in load.runs]
    slo = report.result.slo
    has_levels = any(level is not None for level in (slo.ttft_s, slo.tpot_s, slo.e2e_s))
    yield _row("", *map(_heading, load.sides))
    yield "|---|" + "---:|" * len(load.sides)
    for row in (*headline_rows(metrics, has_levels=has_levels), *policy_rows(metrics)):
        yield _row(row.title, *(_cell(row, side, load.sides[0]) for side in load.sides))


def _cell(row: Row, side: Side, first: Side) -> str:
    ratio, spread = row.side_ratio(side, first), row.spread(side)
    notes = [text for text in (spread, times(ratio) if ratio is not None else "") if text]
    return row.side_text(side) + (f" ({'; '.join(notes)})" if notes else "")


def _latencies(load: LoadReport) -> Iterator[str]:
    yield _row("", "", *PERCENTILES)
    yield "|---|---|" + "---:|" * len(PERCENTILES)
    for name, title, _, shown in DISTRIBUTIONS:
        for run in load.runs:
            distribution: Distribution | None = getattr(run.run.metrics, name)
            values = [None if distribution is None else getattr(distribution, each) for each in PERCENTILES]
            yield _row(title, _escaped(run.name), *map(shown, values))


def _counts(load: LoadReport) -> Iterator[str]:
    yield _row("", *(_escaped(run.name) for run in load.runs))
    yield "|---|" + "---:|" * len(load.runs)
    for name, title in COUNTS:
        yield _row(title, *(count(getattr(run.run.metrics, name)) for run in load.runs))
    yield _row("CPU of the load test itself, of one core", *(share(run.run.client_cpu_ratio) for run in load.runs))
    yield _row(
        "Requests sent together with those of most other users",
        *(share(run.run.client.lock_step_ratio) for run in load.runs),
    )


def _certificate(certificate: Certificate | None) -> Iterator[str]:
    if certificate is None:
        return
    yield from ("", "## Was the load the same?", "", certificate_headline(certificate), "")
    yield from (f"- {_escaped(line)}" for line in certificate_lines(certificate))
    yield f"- certificate `{certificate.sha256}`"


def _failures(report: Report) -> Iterator[str]:
    if not report.result.failures:
        return
    yield from ("", "## Backends that failed", "", _row("backend", "load", "error", "message"), "|---|---|---|---|")
    for failure in report.result.failures:
        load = str(failure.load) if failure.load else "its start"
        message = f"{failure.message}{MADE_GOOD if failure.is_made_good else ''}"
        yield _row(_escaped(failure.label), load, failure.error_class, _escaped(message))


def _validity(report: Report) -> Iterator[str]:
    if not report.runs:
        return
    yield from ("", "## Validity", "")
    if not report.invalid_runs:
        yield f"**VALID**: all {len(report.runs)} runs did what the plan says, and the client was not the limit."
        return
    yield f"**INVALID**: {len(report.invalid_runs)} of {len(report.runs)} runs; they win nothing."
    yield from ("", _row("run", "reason", "detail"), "|---|---|---|")
    for run in report.invalid_runs:
        for reason in run.run.invalid_reasons:
            yield _row(_escaped(f"{run.name}, {run.run.load}"), f"`{reason.code}`", _escaped(reason.detail))


def _settings(report: Report) -> Iterator[str]:
    if not report.runs:
        return
    yield from ("", "## Settings", "", _row("run", "backend", "asked for", "ran with"), "|---|---|---|---|")
    for run in report.runs:
        backend = " ".join(filter(None, (run.run.backend, run.run.engine_version)))
        settings = run.run.configured_settings, run.run.effective_settings
        yield _row(*(_escaped(text) for text in (f"{run.name}, {run.run.load}", backend, *map(named, settings))))


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
    yield f"- {counting_words(result)}"
    transports = ", ".join(sorted({run.run.transport for run in report.runs})) or "none"
    yield f"- transport: {transports}; measured {result.created_at}"
    yield f"- {environment.cpu}, {environment.num_cores} cores, {size(environment.memory_bytes)} memory"
    yield f"- {environment.operating_system}, {environment.python}"
    yield "- " + ", ".join(f"{name} {version}" for name, version in environment.packages.items())


def _heading(side: Side) -> str:
    starts = f", median of {len(side.runs)} starts" if len(side.runs) > 1 else ""
    marks = (" **SIMULATED**" if side.is_simulated else "") + ("" if side.is_valid else " **INVALID**")
    return _escaped(side.name) + starts + marks


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
