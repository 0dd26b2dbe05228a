"""The plots of one load, as Plotly figures without colours of their own.

A colour is a word such as `@run0` or `@grid`; the page puts in those of the light, dark or print palette. Built as
plain JSON: the library's own classes take longer to import than a report takes to make. Lines that cross each other are
named in the page's legend, bars and time lines where they stand.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from itertools import accumulate
from statistics import median
from typing import Any

from enginebay.loadtest.metrics import e2e_s, output_tokens, tpot_s, ttft_s
from enginebay.loadtest.records import Record
from enginebay.loadtest.timeseries import Sample
from enginebay.report.data import LoadReport, RunReport, Side
from enginebay.report.numbers import duration, number, times
from enginebay.report.palettes import NUM_RUN_COLORS

Figure = dict[str, Any]

MAX_POINTS = 600
"""Of one line: more than a screen has pixels helps nobody and makes a large page."""
MAX_TIMELINE_ROWS = 400
WIDE_RANGE = 20
"""A latency axis whose largest value is more than this many times its smallest is logarithmic."""
SHARES: Figure = {
    "range": [0, 1.02],
    "tickvals": [0, 0.5, 0.9, 1],
    "ticktext": ["0", "50 %", "90 %", "100 %"],
    "automargin": True,
}
"""The axis of a share of requests."""


def throughput(load: LoadReport) -> Figure:
    """Of several starts the median, and from the lowest to the highest."""
    first, *_ = sides = load.sides
    of_starts = [[metrics.output_tokens_per_s for metrics in side.metrics] for side in sides]
    rates = [median(values) for values in of_starts]
    labels = [
        f"<b>{number(rate)}</b>{_range(values)}"
        + (f"  {times(rate / rates[0])} {_text(first)}" if side.has_ratio_to(first) and rates[0] else "")
        for side, rate, values in zip(sides, rates, of_starts, strict=True)
    ]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": rates,
        "y": [_text(side) for side in sides],
        "marker": {"color": [_color(side) for side in sides]},
        "width": 0.62,
        "text": labels,
        "textposition": "outside",
        "textfont": {"color": "@ink"},
        "cliponaxis": False,
        "hoverinfo": "skip",
    }
    widest = max(rates, default=0.0) or 1.0
    return make_figure(
        [bars],
        height=44 * len(sides) + 24,
        margin={"l": 8, "r": 8, "t": 4, "b": 8},
        xaxis={"visible": False, "range": [0, widest * (1.3 if len(load.runs) == len(sides) else 1.5)]},
        yaxis={
            "autorange": "reversed",
            "automargin": True,
            "showgrid": False,
            "ticks": "",
            "tickfont": {"size": 14, "color": "@ink"},
        },
    )


def _range(values: Sequence[float]) -> str:
    return f" ({number(min(values))} to {number(max(values))})" if len(values) > 1 else ""


def first_token_curves(load: LoadReport) -> Figure:
    return _curves(load, ttft_s)


def per_token_curves(load: LoadReport) -> Figure:
    return _curves(load, tpot_s)


def whole_answer_curves(load: LoadReport) -> Figure:
    return _curves(load, e2e_s)


def prompt_lengths(load: LoadReport) -> Figure:
    return _length_curves(load, lambda record: record.num_prompt_tokens)


def output_lengths(load: LoadReport) -> Figure:
    return _length_curves(load, output_tokens)


def timeline(run: RunReport, *, until_s: float) -> Figure:
    """A line for each request: thin while it waits for its first token, thick while tokens arrive."""
    records = _thinned(sorted(run.records, key=lambda record: record.sent_at), MAX_TIMELINE_ROWS)
    waits, streams = _Segments(), _Segments()
    failed: list[tuple[float, int]] = []
    for row, record in enumerate(records):
        first = record.first_token_at if record.first_token_at is not None else record.ended_at
        waits.add(record.sent_at, first, row, f"request {record.index}: {_since_sent(record)}")
        if record.last_token_at is not None:
            streams.add(first, record.last_token_at, row, "")
        if record.is_error:
            failed.append((record.ended_at, row))
    thickness = max(1.0, min(5.0, 150 / max(1, len(records))))
    return make_figure(
        [
            waits.trace(color="@wait", width=max(1.0, thickness / 2)),
            streams.trace(color=_color(run), width=thickness),
            {
                "type": "scatter",
                "mode": "markers",
                "x": [at for at, _ in failed],
                "y": [row for _, row in failed],
                "marker": {"symbol": "x", "size": 7, "color": "@error"},
                "hovertemplate": "failed after %{x:.2f} s<extra></extra>",
            },
        ],
        height=min(240, max(90, 3 * len(records) + 40)),
        margin={"l": 8, "r": 8, "t": 4, "b": 28},
        xaxis=_seconds(until_s),
        yaxis={"visible": False, "range": [len(records), -1]},
    )


def tokens_over_time(load: LoadReport) -> Figure:
    return make_figure(
        [
            _line(run, _thinned(points, MAX_POINTS), "%{y} tokens after %{x:.1f} s")
            for run in load.runs
            if (points := _token_totals(run))
        ],
        height=280,
        margin={"l": 8, "r": 16, "t": 8, "b": 28},
        xaxis=_seconds(_until_s(load)),
        yaxis={"automargin": True, "rangemode": "tozero", "tickformat": ",d"},
    )


def _token_totals(run: RunReport) -> list[tuple[float, int]]:
    arrivals = sorted((arrival.at, arrival.num_tokens) for record in run.records for arrival in record.arrivals)
    totals = accumulate(num_tokens for _, num_tokens in arrivals)
    return [(0.0, 0), *zip((at for at, _ in arrivals), totals, strict=True)] if arrivals else []


def running_over_time(load: LoadReport) -> Figure:
    return _samples(load, lambda sample: sample.num_running)


def waiting_over_time(load: LoadReport) -> Figure:
    return _samples(load, lambda sample: sample.num_waiting)


def has_samples(load: LoadReport) -> bool:
    return any(sample.num_running is not None for run in load.runs for sample in run.samples)


def until_s(load: LoadReport) -> float:
    return _until_s(load)


# ---------------------------------------------------------------- parts


def _curves(load: LoadReport, latency: Callable[[Record], float | None]) -> Figure:
    """Share of the requests that had it sooner, over the latency."""
    present = [(run, values) for run in load.runs if (values := _sorted_latencies(run, latency))]
    everything = [value for _, values in present for value in values]
    is_log = bool(everything) and min(everything) > 0 and max(everything) > WIDE_RANGE * min(everything)
    return make_figure(
        [
            _line(run, _thinned(_shares(values), MAX_POINTS), "%{y:.0%} within %{x:.3g} s", shape="hv")
            for run, values in present
        ],
        height=260,
        margin={"l": 8, "r": 12, "t": 8, "b": 28},
        xaxis=_latency_axis(everything, is_log=is_log),
        yaxis=SHARES,
    )


def _length_curves(load: LoadReport, length: Callable[[Record], int | None]) -> Figure:
    """Share of the finished requests with no more tokens, over the number of tokens."""
    return make_figure(
        [
            _line(run, _thinned(points, MAX_POINTS), "%{y:.0%} with %{x} tokens or fewer", shape="hv")
            for run in load.runs
            if (points := _shares_of_lengths(run, length))
        ],
        height=220,
        margin={"l": 8, "r": 12, "t": 8, "b": 28},
        xaxis={"rangemode": "tozero", "nticks": 6},
        yaxis=SHARES,
    )


def _shares_of_lengths(run: RunReport, length: Callable[[Record], int | None]) -> list[tuple[float, float]]:
    """A point for each length that occurs: many requests have the same."""
    found = [length(record) for record in run.records if record.is_finished]
    numbers = Counter(value for value in found if value is not None)
    lengths = sorted(numbers)
    totals = accumulate(numbers[value] for value in lengths)
    shares = [(float(value), total / numbers.total()) for value, total in zip(lengths, totals, strict=True)]
    return [(shares[0][0], 0.0), *shares] if shares else []


def _shares(values: Sequence[float]) -> list[tuple[float, float]]:
    return [(values[0], 0.0), *((value, (index + 1) / len(values)) for index, value in enumerate(values))]


def _latency_axis(values: Sequence[float], *, is_log: bool) -> Figure:
    if not values or max(values) <= 0:
        return {"visible": False}
    low, high = min(values), max(values)
    if is_log:
        decades = [10.0**power for power in range(-5, 6)]
        shown = [tick for tick in decades if low / 10 < tick < high * 10]
        # A little air on both sides, as exponents of ten.
        limits = [math.log10(low) - 0.15, math.log10(high) + 0.25]
        return {"type": "log", "tickvals": shown, "ticktext": [_tick(tick) for tick in shown], "range": limits}
    step = _nice_step(high * 1.1 / 4)
    shown = [number * step for number in range(int(high * 1.1 / step) + 1)]
    return {"range": [0, high * 1.1], "tickvals": shown, "ticktext": [_tick(tick) for tick in shown]}


def _nice_step(rough: float) -> float:
    """1, 2 or 5 times a power of ten, not below `rough`."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)


def _tick(value_s: float) -> str:
    return f"{value_s:g} s" if value_s >= 1 or value_s == 0 else f"{value_s * 1000:g} ms"


def _sorted_latencies(run: RunReport, latency: Callable[[Record], float | None]) -> list[float]:
    found = (latency(record) for record in run.records if record.is_finished)
    return sorted(value for value in found if value is not None)


def _samples(load: LoadReport, value: Callable[[Sample], float | None]) -> Figure:
    return make_figure(
        [
            _line(run, _thinned(points, MAX_POINTS), "%{y:.0f} after %{x:.1f} s", shape="hv")
            for run in load.runs
            if (points := [(sample.at, found) for sample in run.samples if (found := value(sample)) is not None])
        ],
        height=220,
        margin={"l": 8, "r": 8, "t": 8, "b": 28},
        xaxis={**_seconds(_until_s(load)), "nticks": 6},
        yaxis={"rangemode": "tozero", "automargin": True, "nticks": 5},
    )


class _Segments:
    """Many horizontal lines as one trace: the gaps between them are missing points."""

    def __init__(self) -> None:
        self.x: list[float | None] = []
        self.y: list[int | None] = []
        self.text: list[str] = []

    def add(self, start: float, end: float, row: int, text: str) -> None:
        self.x += [round(start, 4), round(end, 4), None]
        self.y += [row, row, None]
        self.text += [text, "", ""]

    def trace(self, *, color: str, width: float) -> Figure:
        return {
            "type": "scatter",
            "mode": "lines",
            "x": self.x,
            "y": self.y,
            "text": self.text,
            "line": {"color": color, "width": width},
            "hoverinfo": "text" if any(self.text) else "skip",
        }


def _line(run: RunReport, points: Sequence[tuple[float, float]], hover: str, *, shape: str = "linear") -> Figure:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": _text(run),
        "x": [round(x, 5) for x, _ in points],
        "y": [round(y, 5) for _, y in points],
        "line": {"color": _color(run), "width": 2.2, "shape": shape},
        "hovertemplate": f"{_text(run)}: {hover}<extra></extra>",
    }


def make_figure(data: list[Figure], *, height: float, **layout: Any) -> Figure:
    """What all plots share, without a colour of its own."""
    for axis in ("xaxis", "yaxis"):
        layout[axis] = {
            "gridcolor": "@grid",
            "zeroline": False,
            "tickangle": 0,
            "fixedrange": axis == "yaxis",
            **layout[axis],
        }
    return {
        "data": data,
        "layout": {
            "height": height,
            "showlegend": False,
            "hovermode": "closest",
            "paper_bgcolor": "@clear",
            "plot_bgcolor": "@clear",
            "font": {"family": "system-ui, sans-serif", "size": 12.5, "color": "@muted"},
            "hoverlabel": {"bgcolor": "@panel", "bordercolor": "@grid", "font": {"color": "@ink"}},
            **layout,
        },
    }


def _seconds(end_s: float) -> Figure:
    return {"range": [0, end_s * 1.02 or 1], "ticksuffix": " s", "nticks": 9, "showgrid": True}


def _until_s(load: LoadReport) -> float:
    return max((record.ended_at for run in load.runs for record in run.records), default=1.0)


def _since_sent(record: Record) -> str:
    wait_s = ttft_s(record)
    if wait_s is None:
        return "no token"
    return f"first token after {duration(wait_s)}, all {output_tokens(record)} after {duration(e2e_s(record))}"


def _text(run: RunReport | Side) -> str:
    # Plotly reads a little HTML in every text.
    return escape(run.name, quote=False)


def _color(run: RunReport | Side) -> str:
    return f"@run{run.color_index % NUM_RUN_COLORS}"


def _thinned(points: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` of them, equally spaced, first and last included."""
    if len(points) <= limit:
        return list(points)
    return [points[index * (len(points) - 1) // (limit - 1)] for index in range(limit)]
