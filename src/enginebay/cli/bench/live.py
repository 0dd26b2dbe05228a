"""What a running load test shows: a table of the backends, drawn at most four times a second, or plain lines.

Nothing is drawn where requests are measured: a record only adds to counts. A drawing is one string of plain text and
costs a tenth of a millisecond on the event loop that also stamps what arrives, so that it is far below what is
measured; a table of a library's would cost fifty times that. The client's longest stall stands in every run anyway.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.cells import cell_len, set_cell_size
from rich.console import Console

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
BAR_WIDTH = 16


@contextmanager
def live_view(console: Console, *, num_runs: int) -> Iterator[LiveView | PlainView]:
    """A `Watcher` for this terminal; plain lines where there is none."""
    if not console.is_terminal:
        yield PlainView(console, num_runs=num_runs)
        return
    view = LiveView(num_runs=num_runs, clock=MonotonicClock())
    screen = _Screen(console)

    def draw() -> None:
        screen.show(view.drawn(max_lines=screen.num_lines_free))

    view.on_draw = draw
    try:
        yield view
    finally:
        draw()


class _Screen:
    """Some lines at the end of the terminal that are written again and again."""

    def __init__(self, console: Console) -> None:
        self._console, self._file, self._has_color = console, console.file, console.color_system is not None
        self._num_lines = 0

    @property
    def num_lines_free(self) -> int:
        """The cursor stands below what is shown; a line that has left the terminal at its top can't be written anew."""
        return max(1, self._console.height - 1)

    def show(self, lines: list[list[Cell]]) -> None:
        # A terminal that was made smaller has kept no more of the last drawing than fits.
        self._num_lines = min(self._num_lines, self.num_lines_free)
        back = f"\x1b[{self._num_lines}F" if self._num_lines else ""
        self._num_lines = len(lines)
        self._file.write(back + "".join(f"\x1b[2K{self._painted(line)}\n" for line in lines))
        self._file.flush()

    def _painted(self, line: list[Cell]) -> str:
        """Cut at the right edge: a line that wraps would be counted wrong."""
        left, parts = self._console.width - 1, list[str]()
        for text, code in line:
            shown = text if cell_len(text) <= left else set_cell_size(text, left)
            left -= cell_len(shown)
            parts.append(f"\x1b[{code}m{shown}\x1b[0m" if code and self._has_color else shown)
        return "".join(parts)


Cell = tuple[str, str]
"""Text, and the codes of its style; none for plain text."""
PLAIN, BOLD, DIM, RED, GREEN = "", "1", "2", "31", "32"


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
    touched: int = 0
    """Rises with every phase of any backend: the highest is what goes on now."""

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
        self._num_ended = self._num_phases = 0
        self._left = ""
        self._drawn_at = float("-inf")
        self.on_draw: Callable[[], None] = lambda: None

    def phase(self, label: str, what: str) -> None:
        self._num_phases += 1
        line = self._lines.setdefault(label, Line(label))
        line.phase, line.touched = what, self._num_phases
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

    def estimate(self, estimate: TimeEstimate) -> None:
        guess = "" if estimate.is_measured else ", a guess until each backend has been measured once"
        self._left = f", about {_minutes(estimate.remaining_s)} left{guess}" if estimate.remaining_s > 0 else ""
        self._draw()

    def _draw(self) -> None:
        self.on_draw()
        self._drawn_at = self._clock.now()

    def drawn(self, *, max_lines: int | None = None) -> list[list[Cell]]:
        """Where there is no room for all backends, those that something happened on last; how many more, is told."""
        shown = self._shown(len(self._lines) if max_lines is None else max(0, max_lines - 2))
        num_hidden = len(self._lines) - len(shown)
        more = f", {num_hidden} more backends" if num_hidden else ""
        footer: list[Cell] = [(f"{self._num_ended} of {self._num_runs} runs{self._left}{more}", DIM)]
        return [*_table(shown), footer] if shown else [footer]

    def _shown(self, most: int) -> list[Line]:
        """In the order in which they first came, so that a line stays where it is."""
        latest = sorted(self._lines.values(), key=lambda line: line.touched)[-most:] if most else []
        labels = {line.label for line in latest}
        return [line for line in self._lines.values() if line.label in labels]


def _table(lines: Sequence[Line]) -> list[list[Cell]]:
    rows = [[(heading, DIM) for heading in _HEADINGS], *map(_cells, lines)]
    widths = [max(cell_len(row[column][0]) for row in rows) + 2 for column in range(len(_HEADINGS))]
    return [
        [(set_cell_size(text, width), code) for (text, code), width in zip(row, widths, strict=True)] for row in rows
    ]


_HEADINGS = ("backend", "load", "start", "requests", "errors", "tokens/s", "TTFT p50", "p99", "req/s", "")
"""What matters less stands further right, where a narrow terminal cuts it off."""


def _cells(line: Line) -> list[Cell]:
    label = " ".join(line.label.split())  # a name with a line break would take two lines
    name = (f"{label} {line.num_invalid} INVALID", RED) if line.num_invalid else (label, BOLD)
    if line.phase:
        return [name, (line.phase, DIM), *[("", PLAIN)] * (len(_HEADINGS) - 2)]
    filled = BAR_WIDTH * line.num_done // line.num_planned if line.num_planned else 0
    return [
        name,
        (line.load, PLAIN),
        (str(line.start), PLAIN),
        (f"{count(line.num_done)} of {count(line.num_planned)}", PLAIN),
        (str(line.num_errors), RED if line.num_errors else DIM),
        (number(line.tokens_per_s), PLAIN),
        (duration(line.ttft(50)), PLAIN),
        (duration(line.ttft(99)), PLAIN),
        (number(line.requests_per_s), PLAIN),
        ("━" * filled + "·" * (BAR_WIDTH - filled), GREEN),
    ]


class PlainView:
    """One line when a run ends, for logs."""

    def __init__(self, console: Console, *, num_runs: int) -> None:
        self._console, self._num_runs, self._num_ended = console, num_runs, 0
        self._told: set[bool] = set()

    def estimate(self, estimate: TimeEstimate) -> None:
        """Told once as a guess, and once more when it is measured."""
        if estimate.is_measured in self._told or estimate.remaining_s <= 0:
            return
        self._told.add(estimate.is_measured)
        basis = "by what was measured" if estimate.is_measured else "a guess until each backend has been measured once"
        text = f"this takes about {_minutes(estimate.remaining_s)} more ({basis})"
        self._console.print(text, highlight=False, soft_wrap=True)

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
            soft_wrap=True,
        )
