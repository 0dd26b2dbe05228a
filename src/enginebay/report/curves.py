"""Throughput against latency over all loads of a result: one line for each backend, one point for each load."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import median

from enginebay.loadtest.metrics import Distribution, Metrics
from enginebay.loadtest.plan import Load
from enginebay.report.data import Report, RunReport
from enginebay.report.figures import Figure, make_figure
from enginebay.report.palettes import NUM_RUN_COLORS

LATENCIES = (
    ("ttft_s", "p50", "First token, median"),
    ("tpot_s", "p50", "Each further token, median"),
    ("e2e_s", "p95", "Whole answer, p95"),
)


def has_curves(report: Report) -> bool:
    """One point is no curve."""
    return len(report.loads) > 1


def throughput_latency(report: Report, name: str, part: str) -> Figure:
    """Of several starts the median; an invalid load of a backend is an open circle."""
    traces = [trace for label in report.labels if (trace := _trace(report, label, name, part))]
    return make_figure(
        traces,
        height=280,
        margin={"l": 8, "r": 12, "t": 8, "b": 34},
        xaxis={"title": {"text": "output tokens per second", "font": {"size": 11.5}}, "rangemode": "tozero"},
        yaxis={"rangemode": "tozero", "automargin": True, "ticksuffix": " s", "nticks": 6},
    )


def _trace(report: Report, label: str, name: str, part: str) -> Figure | None:
    points = [point for load in report.loads if (point := _point(load.runs, label, name, part))]
    if not points:
        return None
    color = f"@run{points[0].color_index % NUM_RUN_COLORS}"
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": escape(label, quote=False),
        "x": [round(point.tokens_per_s, 3) for point in points],
        "y": [round(point.latency_s, 5) for point in points],
        "text": [f"{escape(label, quote=False)}, {escape(str(point.load), quote=False)}" for point in points],
        "line": {"color": color, "width": 2.2},
        "marker": {"color": color, "size": 9, "symbol": [_symbol(point) for point in points]},
        "hovertemplate": "%{text}: %{x:.1f} tokens/s, %{y:.3g} s<extra></extra>",
    }


class _Point:
    def __init__(self, load: Load, runs: Sequence[RunReport], latencies_s: Sequence[float]) -> None:
        self.load = load
        self.color_index = runs[0].color_index
        self.tokens_per_s = median(run.run.metrics.output_tokens_per_s for run in runs)
        self.latency_s = median(latencies_s)
        self.is_valid = all(run.run.valid for run in runs)


def _point(runs: Sequence[RunReport], label: str, name: str, part: str) -> _Point | None:
    of_label = [run for run in runs if run.run.label == label]
    found = [value for run in of_label if (value := _latency(run.run.metrics, name, part)) is not None]
    return _Point(of_label[0].run.load, of_label, found) if found else None


def _latency(metrics: Metrics, name: str, part: str) -> float | None:
    distribution: Distribution | None = getattr(metrics, name)
    return None if distribution is None else getattr(distribution, part)


def _symbol(point: _Point) -> str:
    return "circle" if point.is_valid else "circle-open"
