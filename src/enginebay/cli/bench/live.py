"""What a running load test shows: a table of the backends, drawn at most four times a second, or plain lines.

Nothing is drawn where requests are measured: a record only adds to counts. Drawing happens between two requests, on
the same event loop, and costs a millisecond or two; the client's longest stall stands in every run, so that a slow
terminal would show there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from enginebay.clock import Clock, MonotonicClock
from enginebay.loadtest.metrics import output_tokens, ttft_s
from enginebay.loadtest.records import Record, RunKey
from enginebay.loadtest.result import Run
from enginebay.loadtest.schedule import TimeEstimate
from enginebay.report.numbers import count, duration, number
from enginebay.statistics.percentiles import percentile_of_sorted

INTERVAL_S = 0.25
"""Between two drawings."""
RECENT = 200
"""Requests that the shown wait for the first token is the median of."""


@contextmanager
def live_view(console: Console, *, num_runs: int) -> Iterator[LiveView | PlainView]:
    """A `Watcher` for this terminal; plain lines where there is none."""
    if not console.is_terminal:
        yield PlainView(console, num_runs=num_runs)
        return
    view = LiveView(num_runs=num_runs, clock=MonotonicClock())
    # We draw, and no thread of the library's does.
    with Live(view.drawn(), console=console, auto_refresh=False, transient=True) as live:
        view.on_draw = lambda: live.update(view.drawn(), refresh=True)
        yield view
    console.print(view.drawn())


def tell_estimate(console: Console) -> Callable[[TimeEstimate], None]:
    """Say once how long it will take, and once more when that is measured."""
    told: set[bool] = set()

    def tell(estimate: TimeEstimate) -> None:
        if estimate.is_measured in told or estimate.remaining_s <= 0:
            return
        told.add(estimate.is_measured)
        basis = "by what was measured" if estimate.is_measured else "a guess until each backend has been measured once"
        console.print(f"this takes about {_minutes(estimate.remaining_s)} more ({basis})", highlight=False)

    return tell


def _minutes(value_s: float) -> str:
    return f"{value_s:.0f} s" if value_s < 90 else f"{value_s / 60:.0f} min"


@dataclass(slots=True)
class Line:
    """What is known of one backend."""

    label: str
    phase: str = ""
    load: str = ""
    start: int = 0
    num_planned: int = 0
    num_done: int = 0
    num_errors: int = 0
    num_tokens: int = 0
    latest_at: float = 0.0
    recent_ttft_s: deque[float] = field(default_factory=lambda: deque[float](maxlen=RECENT))
    num_runs: int = 0
    num_invalid: int = 0

    def begin(self, run: RunKey, num_requests: int) -> None:
        self.phase, self.load, self.start = "", str(run.load), run.start_index + 1
        self.num_planned, self.num_done, self.num_errors, self.num_tokens, self.latest_at = num_requests, 0, 0, 0, 0.0
        self.recent_ttft_s.clear()

    def add(self, record: Record) -> None:
        self.num_done += 1
        self.num_errors += record.is_error
        self.latest_at = max(self.latest_at, record.ended_at)
        if record.is_finished:
            self.num_tokens += output_tokens(record)
            if (wait_s := ttft_s(record)) is not None:
                self.recent_ttft_s.append(wait_s)

    @property
    def tokens_per_s(self) -> float | None:
        return self.num_tokens / self.latest_at if self.latest_at > 0 else None

    @property
    def requests_per_s(self) -> float | None:
        return self.num_done / self.latest_at if self.latest_at > 0 else None

    def ttft(self, percent: float) -> float | None:
        return percentile_of_sorted(sorted(self.recent_ttft_s), percent) if self.recent_ttft_s else None


class LiveView:
    """A table with a line for each backend. `on_draw` is called every `INTERVAL_S`, and when a phase changes."""

    def __init__(self, *, num_runs: int, clock: Clock) -> None:
        self._num_runs, self._clock = num_runs, clock
        self._lines: dict[str, Line] = {}
        self._num_ended = 0
        self._drawn_at = float("-inf")
        self.on_draw: Callable[[], None] = lambda: None

    def phase(self, label: str, what: str) -> None:
        self._lines.setdefault(label, Line(label)).phase = what
        self._draw()

    def run_begins(self, run: RunKey, num_requests: int) -> None:
        self._lines[run.label].begin(run, num_requests)
        self._draw()

    def record(self, run: RunKey, record: Record) -> None:
        self._lines[run.label].add(record)
        if self._clock.now() - self._drawn_at >= INTERVAL_S:
            self._draw()

    def run_ends(self, run: Run) -> None:
        line = self._lines[run.label]
        line.num_runs += 1
        line.num_invalid += not run.valid
        self._num_ended += 1
        self._draw()

    def _draw(self) -> None:
        self.on_draw()
        self._drawn_at = self._clock.now()

    def drawn(self) -> Group:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        for heading in (
            "backend",
            "start",
            "load",
            "requests",
            "",
            "req/s",
            "tokens/s",
            "first token p50",
            "p99",
            "errors",
        ):
            table.add_column(heading, header_style="dim", no_wrap=True)
        for line in self._lines.values():
            table.add_row(*_cells(line))
        ended = Text(f"{self._num_ended} of {self._num_runs} runs", style="dim")
        return Group(table, ended)


_HEADINGS = (
    "backend", "start", "load", "requests", "", "req/s", "tokens/s", "first token p50", "p99", "errors",
)  # fmt: skip


def _cells(line: Line) -> list[Text | str]:
    name = Text(line.label, style="bold")
    if line.num_invalid:
        name.append(f" {line.num_invalid} INVALID", style="red")
    if line.phase:
        return [name, "", Text(line.phase, style="dim")]
    return [
        name,
        str(line.start),
        line.load,
        f"{count(line.num_done)} of {count(line.num_planned)}",
        _bar(line.num_done, line.num_planned),
        number(line.requests_per_s),
        number(line.tokens_per_s),
        duration(line.ttft(50)),
        duration(line.ttft(99)),
        Text(str(line.num_errors), style="red" if line.num_errors else "dim"),
    ]


def _bar(done: int, planned: int, width: int = 16) -> Text:
    filled = width * done // planned if planned else 0
    bar = Text("━" * filled, style="green")
    return bar.append("━" * (width - filled), style="dim")


class PlainView:
    """One line when a run ends, for logs."""

    def __init__(self, console: Console, *, num_runs: int) -> None:
        self._console, self._num_runs, self._num_ended = console, num_runs, 0

    def phase(self, label: str, what: str) -> None:
        """Runs tell enough."""

    def run_begins(self, run: RunKey, num_requests: int) -> None:
        """Its end is told."""

    def record(self, run: RunKey, record: Record) -> None:
        """The run is told as a whole."""

    def run_ends(self, run: Run) -> None:
        metrics = run.metrics
        self._num_ended += 1
        wait_s = metrics.ttft_s.p50 if metrics.ttft_s else None
        self._console.print(
            f"[{self._num_ended}/{self._num_runs}] {run.label}, {run.load}, start {run.start_index + 1}: "
            f"{metrics.num_requests} requests in {metrics.duration_s:.1f} s, "
            f"{metrics.output_tokens_per_s:.1f} tokens/s, first token {duration(wait_s)}, "
            f"{metrics.num_errors} errors{'' if run.valid else ', INVALID'}",
            highlight=False,
            markup=False,
        )
