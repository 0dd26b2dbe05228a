"""report.html: one file with everything in it. Its content security policy forbids the page any network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from plotly.offline import get_plotlyjs

from enginebay.loadtest.metrics import Metrics
from enginebay.report import figures, numbers
from enginebay.report.capacity_report import capacity_context
from enginebay.report.certificate_words import certificate_headline, certificate_lines
from enginebay.report.counting_words import counting_words
from enginebay.report.curves import LATENCIES, has_curves, throughput_latency
from enginebay.report.data import LoadReport, Report
from enginebay.report.errors_table import error_rows
from enginebay.report.figures_table import COUNTS, DISTRIBUTIONS, PERCENTILES, headline_rows, policy_rows
from enginebay.report.pages import template
from enginebay.report.palettes import DARK, LIGHT, NUM_RUN_COLORS
from enginebay.report.probes_section import probes_context
from enginebay.report.requests_data import TICKS_PER_S, requests_data
from enginebay.report.summary import summary
from enginebay.report.verdict_words import agreement_words, metric_rows, status_words
from enginebay.verdict.comparison.phrases import listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    id: str
    title: str
    description: str
    """What a reader who cannot see it needs to know; the figures themselves stand in the tables."""
    figure: figures.Figure
    columns: int = 1
    """How many plots share a line."""
    color: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    load: LoadReport
    anchor: str
    throughput: Plot
    latencies: tuple[Plot, ...]
    lengths: tuple[Plot, ...]
    timelines: tuple[Plot, ...]
    over_time: tuple[Plot, ...]

    @property
    def plots(self) -> tuple[Plot, ...]:
        return (self.throughput, *self.latencies, *self.lengths, *self.timelines, *self.over_time)


def render_html(report: Report) -> str:
    sections = [_section(number, load) for number, load in enumerate(report.loads)]
    curves = tuple(_curves(report)) if has_curves(report) else ()
    plots = {plot.id: plot.figure for plot in (*curves, *(plot for section in sections for plot in section.plots))}
    requests = requests_data(report)
    slo = report.result.slo
    return template("report.html.j2").render(
        report=report,
        result=report.result,
        counting=counting_words(report.result),
        listed=listed,
        sections=sections,
        curves=curves,
        verdict=report.verdict,
        certificate=report.certificate,
        certificate_headline=certificate_headline,
        certificate_lines=certificate_lines,
        agreement_words=agreement_words,
        metric_rows=metric_rows,
        status_words=status_words,
        requests=requests,
        requests_json=_json_in_script({"ticks_per_s": TICKS_PER_S, "runs": requests}),
        summary=summary(report),
        errors=error_rows(report),
        has_levels=any(level is not None for level in (slo.ttft_s, slo.tpot_s, slo.e2e_s)),
        headline_rows=headline_rows,
        policy_rows=policy_rows,
        distributions=DISTRIBUTIONS,
        counts=COUNTS,
        percentiles=PERCENTILES,
        distribution_value=_distribution_value,
        numbers=numbers,
        light=LIGHT,
        dark=DARK,
        num_run_colors=NUM_RUN_COLORS,
        plots_json=_json_in_script(plots),
        palettes_json=_json_in_script({"light": LIGHT, "dark": DARK}),
        plotly_js=plotly_js(),
        **probes_context(report.probes),
        **capacity_context(report.capacity),
    )


def _curves(report: Report) -> Iterator[Plot]:
    for name, part, title in LATENCIES:
        yield Plot(
            id=f"curve-{name}",
            title=title,
            description="Against output tokens per second, one line for each backend, one point for each load.",
            figure=throughput_latency(report, name, part),
            columns=len(LATENCIES),
        )


def _section(number: int, load: LoadReport) -> Section:
    return Section(
        load=load,
        anchor=f"load-{number}",
        throughput=Plot(
            id=f"throughput-{number}",
            title="Output tokens per second",
            description="One bar for each run.",
            figure=figures.throughput(load),
        ),
        latencies=tuple(_latency_plots(number, load)),
        lengths=tuple(_length_plots(number, load)),
        timelines=tuple(_timeline_plots(number, load)),
        over_time=tuple(_over_time_plots(number, load)),
    )


def _latency_plots(number: int, load: LoadReport) -> Iterator[Plot]:
    kinds = (
        ("first-token", "To the first token", figures.first_token_curves),
        ("per-token", "For each further token", figures.per_token_curves),
        ("whole-answer", "For the whole answer", figures.whole_answer_curves),
    )
    for name, title, make in kinds:
        yield Plot(
            id=f"{name}-{number}",
            title=title,
            description="Share of the requests that needed no longer, one curve for each run.",
            figure=make(load),
            columns=len(kinds),
        )


def _length_plots(number: int, load: LoadReport) -> Iterator[Plot]:
    kinds = (
        ("prompt", "Tokens of the prompt", figures.prompt_lengths),
        ("output", "Tokens of the answer", figures.output_lengths),
    )
    for name, title, make in kinds:
        yield Plot(
            id=f"{name}-lengths-{number}",
            title=title,
            description="Share of the requests with no more tokens, one curve for each run.",
            figure=make(load),
            columns=2,
        )


def _timeline_plots(number: int, load: LoadReport) -> Iterator[Plot]:
    """Of the first start of each backend: the others look alike, and every request is in the table below."""
    until_s = figures.until_s(load)
    for index, run in enumerate(load.runs):
        if run.records and run.is_first_start:
            yield Plot(
                id=f"timeline-{number}-{index}",
                title=run.name,
                description=f"Each request of {run.name} as a line from sending to its last token.",
                figure=figures.timeline(run, until_s=until_s),
                color=f"run{run.color_index % NUM_RUN_COLORS}",
            )


def _over_time_plots(number: int, load: LoadReport) -> Iterator[Plot]:
    yield Plot(
        id=f"tokens-{number}",
        title="Output tokens since the start",
        description="Running total of the tokens that arrived, one line for each run.",
        figure=figures.tokens_over_time(load),
    )
    if figures.has_samples(load):
        kinds = (
            ("running", "Requests in the batch", figures.running_over_time),
            ("waiting", "Requests waiting in the engine", figures.waiting_over_time),
        )
        for name, title, make in kinds:
            yield Plot(
                id=f"{name}-{number}",
                title=title,
                description="As the engine told while it ran, one line for each run.",
                figure=make(load),
                columns=2,
            )


@cache
def plotly_js() -> str:
    """The library, without a byte that looks like a link to be followed.

    Credits of map tiles hold `href="https://...`; the same text with escaped slashes is the same string to JavaScript.
    """
    credit = re.compile(r"((?:href|src)\s*=\s*[\"']https?:)//")
    return credit.sub(r"\1\\/\\/", get_plotlyjs()).replace("</script", "<\\/script")


def _json_in_script(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _distribution_value(metrics: Metrics, name: str, part: str) -> float | None:
    distribution = getattr(metrics, name)
    return None if distribution is None else getattr(distribution, part)
