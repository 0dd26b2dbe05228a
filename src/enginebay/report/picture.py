"""One picture of a result for a README: the verdict in a sentence, throughput and waits of each backend, and whence.

The means is matplotlib, which writes SVG and PNG from one drawing; text becomes outlines, so that it looks the same
everywhere, and the page behind it is always light.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from enginebay.errors import ConfigError
from enginebay.loadtest.files import write_atomically
from enginebay.loadtest.metrics import Metrics
from enginebay.report.data import LoadReport, Report, RunReport, Side
from enginebay.report.numbers import duration, number, size
from enginebay.report.palettes import LIGHT, NUM_RUN_COLORS
from enginebay.report.summary import summary
from enginebay.verdict.comparison.phrases import listed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png")
WIDTH_IN, DOTS_PER_IN = 10.0, 160
HEADLINE_CHARACTERS, FOOT_CHARACTERS = 108, 170
MAX_LOADS = 6
"""More would be too small to read; the first and the last are always among them."""


def save_picture(report: Report, path: Path) -> None:
    """SVG or PNG, by the file's name. Raises ConfigError for any other, LoadTestError where it cannot be written."""
    form = path.suffix.lower()
    if form not in FORMATS:
        raise ConfigError(f"{path}: no picture can be drawn in that form", expected=" or ".join(FORMATS))
    write_atomically(path, draw_picture(report, form=form.removeprefix(".")))


def draw_picture(report: Report, *, form: str) -> bytes:
    """form: svg or png. The same result gives the same bytes."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    loads = _chosen(report.loads)
    num_bars = sum(len(load.sides) for load in loads) + len(loads)
    height_in = 2.3 + 0.26 * max(4, num_bars)
    settings: Any = {"font.family": "DejaVu Sans", "svg.hashsalt": report.result.plan_sha256}
    with mpl.rc_context(settings):
        figure = Figure(figsize=(WIDTH_IN, height_in), facecolor=LIGHT["page"])
        _write_head(figure, report, height_in)
        _write_foot(figure, report, height_in)
        top, bottom = 1 - 1.32 / height_in, 0.72 / height_in
        panels = figure.subplots(1, 3, gridspec_kw={"top": top, "bottom": bottom, "left": 0.17, "right": 0.97,
                                                    "wspace": 0.12})  # fmt: skip
        for panel, (title, value, shown) in zip(panels, _PANELS, strict=True):
            _draw_panel(panel, loads, title, value, shown)
        _name_bars(panels[0], loads)
        content = io.BytesIO()
        metadata: dict[str, Any] = {"Date": None, "Creator": None} if form == "svg" else {"Software": None}
        figure.savefig(content, format=form, dpi=DOTS_PER_IN, metadata=metadata)
    return content.getvalue()


def _median_of(name: str) -> Callable[[Metrics], float | None]:
    def value(metrics: Metrics) -> float | None:
        distribution = getattr(metrics, name)
        return None if distribution is None else distribution.p50

    return value


_PANELS: tuple[tuple[str, Callable[[Metrics], float | None], Callable[[float | None], str]], ...] = (
    ("Output tokens per second", lambda metrics: metrics.output_tokens_per_s, number),
    ("First token, median", _median_of("ttft_s"), duration),
    ("Each further token, median", _median_of("tpot_s"), duration),
)


def _chosen(loads: Sequence[LoadReport]) -> list[LoadReport]:
    if len(loads) <= MAX_LOADS:
        return list(loads)
    return [loads[index * (len(loads) - 1) // (MAX_LOADS - 1)] for index in range(MAX_LOADS)]


# ---------------------------------------------------------------- words


def _write_head(figure: Figure, report: Report, height_in: float) -> None:
    def at(inches: float) -> float:
        return 1 - inches / height_in

    figure.text(0.03, at(0.34), listed(report.labels), fontsize=17, fontweight="bold", color=LIGHT["ink"])
    if mark := _mark(report):
        figure.text(0.97, at(0.34), mark, fontsize=12, fontweight="bold", color=LIGHT["error"], ha="right")
    headline = textwrap.fill(_headline(report), HEADLINE_CHARACTERS, max_lines=2, placeholder=" …")
    figure.text(0.03, at(0.48), headline, fontsize=11.5, color=LIGHT["ink"], va="top", linespacing=1.35)


def _mark(report: Report) -> str:
    if report.is_simulated:
        return "SIMULATED"
    return flaw(report.runs, of="runs ")


def flaw(runs: Sequence[RunReport], *, of: str = "") -> str:
    """How many of them are invalid, where not all are."""
    num_invalid = sum(not run.run.valid for run in runs)
    if num_invalid in (0, len(runs)):
        return "INVALID" if num_invalid else ""
    return f"{num_invalid} of {len(runs)} {of}INVALID"


def _headline(report: Report) -> str:
    if report.verdict is not None:
        return report.verdict.headline
    return next(iter(summary(report)), "Nothing was measured.")


def _write_foot(figure: Figure, report: Report, height_in: float) -> None:
    result, environment = report.result, report.result.environment
    num_starts = len({run.run.start_index for run in report.runs})
    place = environment.gpus[0] if environment.gpus else environment.cpu
    starts = "1 start of each"
    if num_starts > 1:
        starts = f"{num_starts} starts of each, bars are medians, lines reach from lowest to highest"
    parts = [
        f"{_model_name(result.model)}; {result.workload}",
        f"{starts}; {place}, {environment.num_cores} cores, {size(environment.memory_bytes)}; "
        f"{result.created_at[:10]}; plan {result.plan_sha256[:12]}; "
        f"EngineBay {environment.packages.get('enginebay', '')}",
    ]
    text = "\n".join(textwrap.fill(part, FOOT_CHARACTERS) for part in parts)
    figure.text(0.03, 0.12 / height_in, text, fontsize=7, color=LIGHT["muted"], va="bottom", linespacing=1.4)


def _model_name(model: str) -> str:
    """Of a directory its last part: where it lies on one machine is no news to a reader."""
    return Path(model).name if model.startswith(("/", "~", ".")) else model


# ---------------------------------------------------------------- bars


def _rows(loads: Sequence[LoadReport]) -> list[tuple[float, LoadReport, Side]]:
    """With the place of each bar; a gap stands between two loads."""
    rows: list[tuple[float, LoadReport, Side]] = []
    place = 0.0
    for load in loads:
        for side in load.sides:
            rows.append((place, load, side))
            place += 1
        place += 0.9
    return rows


def _draw_panel(
    panel: Axes,
    loads: Sequence[LoadReport],
    title: str,
    value: Callable[[Metrics], float | None],
    shown: Callable[[float | None], str],
) -> None:
    rows = [(place, side, [found for item in side.metrics if (found := value(item)) is not None])
            for place, _, side in _rows(loads)]  # fmt: skip
    highest = max((max(values) for _, _, values in rows if values), default=1.0) or 1.0
    for place, side, values in rows:
        color = LIGHT[f"run{side.color_index % NUM_RUN_COLORS}"]
        middle = median(values) if values else 0.0
        panel.barh(place, middle, height=0.72, color=color, alpha=1.0 if side.is_comparable else 0.45)
        if len(values) > 1:
            panel.plot([min(values), max(values)], [place, place], color=LIGHT["ink"], linewidth=1.1)
        text = shown(middle) if values else "–"
        end = max([*values, 0.0])
        panel.text(end + 0.03 * highest, place, _plain(text), fontsize=8.5, va="center", color=LIGHT["ink"])
    panel.set_title(title, fontsize=9.5, loc="left", color=LIGHT["ink"], fontweight="bold", pad=6)
    panel.set_xlim(0, highest * 1.32)
    panel.set_ylim(max(place for place, _, _ in rows) + 0.6 if rows else 1, -0.6)
    panel.set_axis_off()


def _plain(text: str) -> str:
    """The font has no narrow space."""
    return text.replace("\N{NARROW NO-BREAK SPACE}", " ")


def _name_bars(panel: Axes, loads: Sequence[LoadReport]) -> None:
    """Left of the first panel: each backend, and above it the load where there are several."""
    is_first = dict.fromkeys(str(load.load) for load in loads)
    for place, load, side in _rows(loads):
        name = f"{side.name[:22]} {flaw(side.runs)}".rstrip()
        panel.annotate(
            name, (0, place), xytext=(-6, 0), textcoords="offset points", ha="right", va="center",
            fontsize=8.5, color=LIGHT["ink"], annotation_clip=False,
        )  # fmt: skip
        if is_first.pop(str(load.load), 0) is None:
            panel.annotate(
                str(load.load), (0, place), xytext=(-6, 13.5), textcoords="offset points", ha="right", va="center",
                fontsize=7.5, color=LIGHT["muted"], annotation_clip=False,
            )  # fmt: skip
