"""What a running load test shows, on a clock and a terminal of our own."""

from __future__ import annotations

import io
import re
import timeit
from itertools import pairwise

from rich.cells import cell_len
from rich.console import Console

from enginebay.cli.bench.live import INTERVAL_S, LiveView, PlainView, live_view
from enginebay.loadtest.plan import Load
from enginebay.loadtest.records import INTERRUPTED, Arrival, Record, RunKey
from enginebay.loadtest.schedule import TimeEstimate
from enginebay.testing.fake_clock import FakeClock

KEY = RunKey(label="vllm", load=Load(users=4), start_index=1)


def record(index: int, *, ended_at: float, error: str | None = None) -> Record:
    return Record(
        index=index,
        scheduled_at=0.0,
        sent_at=0.0,
        ended_at=ended_at,
        arrivals=[] if error else [Arrival(0.2, 1), Arrival(ended_at, 9)],
        num_planned_prompt_tokens=8,
        max_tokens=10,
        num_output_tokens=None if error else 10,
        error_class=error,
    )


def shown(view: LiveView) -> str:
    return "\n".join("".join(text for text, _ in line) for line in view.drawn())


def test_the_table_tells_progress_rate_wait_and_errors_of_each_backend() -> None:
    view = LiveView(num_runs=6, clock=FakeClock())
    view.phase("vllm", "starting")
    view.phase("reference", "warming up")
    view.run_begins(KEY, 40)
    for index in range(10):
        view.record(KEY, record(index, ended_at=2.0))
    view.record(KEY, record(10, ended_at=2.0, error="EngineDied"))
    line = next(line for line in shown(view).splitlines() if line.startswith("vllm"))
    assert "4 users" in line
    assert "11 of 40" in line
    assert "50.0" in line, "100 tokens in 2 s"
    assert "200" in line, "milliseconds to the first token"
    assert re.search(r"11 of 40 +1 +50", line), "one error"
    assert "warming up" in shown(view)
    assert "0 of 6 runs" in shown(view)


def test_it_is_drawn_at_most_four_times_a_second_however_many_requests_end() -> None:
    clock = FakeClock()
    view = LiveView(num_runs=1, clock=clock)
    drawings: list[float] = []
    view.on_draw = lambda: drawings.append(clock.now())
    view.phase("vllm", "starting")
    view.run_begins(KEY, 2000)
    drawings.clear()
    for index in range(2000):
        clock.advance(0.001)
        view.record(KEY, record(index, ended_at=clock.now()))
    assert 7 <= len(drawings) <= 2 / INTERVAL_S
    assert min(later - earlier for earlier, later in pairwise(drawings)) > 0.99 * INTERVAL_S


def test_a_record_costs_microseconds_between_two_drawings() -> None:
    """Of the path of requests: what ends adds to counts, and nothing is formatted."""
    view = LiveView(num_runs=1, clock=FakeClock())
    view.phase("vllm", "starting")
    view.run_begins(KEY, 10)
    drawings = 0

    def draw() -> None:
        nonlocal drawings
        drawings += 1

    view.on_draw = draw
    for index in range(1000):
        view.record(KEY, record(index, ended_at=1.0))
    assert drawings == 0, "the clock stands still, and it was drawn when the run began"


def test_interrupted_requests_are_no_errors() -> None:
    view = LiveView(num_runs=1, clock=FakeClock())
    view.phase("vllm", "starting")
    view.run_begins(KEY, 2)
    view.record(KEY, record(0, ended_at=1.0, error=INTERRUPTED))
    assert re.search(r"1 of 2 +0 ", shown(view))


def test_where_the_output_is_no_terminal_there_are_plain_lines() -> None:
    output = io.StringIO()
    with live_view(Console(file=output, width=200), num_runs=2) as view:
        assert isinstance(view, PlainView)
        view.phase("vllm", "starting")
        view.run_begins(KEY, 1)
        view.record(KEY, record(0, ended_at=1.0))
    assert output.getvalue() == ""


def test_the_time_it_takes_is_told_once_as_a_guess_and_once_as_measured() -> None:
    output = io.StringIO()
    view = PlainView(Console(file=output, width=200), num_runs=1)
    for seconds, is_measured in ((600.0, False), (500.0, False), (300.0, True), (60.0, True), (0.0, True)):
        view.estimate(TimeEstimate(remaining_s=seconds, is_measured=is_measured))
    first, second = output.getvalue().splitlines()
    assert "about 10 min" in first
    assert "a guess" in first
    assert "about 5 min" in second
    assert "by what was measured" in second


def test_on_a_terminal_the_same_lines_are_written_again_and_none_wraps() -> None:
    output = io.StringIO()
    with live_view(Console(file=output, width=60, force_terminal=True, color_system=None), num_runs=2) as view:
        assert isinstance(view, LiveView)
        view.phase("vllm", "starting")
        view.run_begins(KEY, 40)
        view.estimate(TimeEstimate(remaining_s=300.0, is_measured=True))
    written = output.getvalue()
    assert written.count("\x1b[3F") == 3, "three lines, written four times"
    lines = [line.rpartition("\x1b[2K")[2] for line in written.splitlines()]
    assert max(map(len, lines)) < 60
    assert "about 5 min left" in lines[-1]


class Screen(io.StringIO):
    """As a terminal of `height` lines shows what is written: the cursor can't rise above its first line."""

    def __init__(self, height: int) -> None:
        super().__init__()
        self.height, self.lines, self.row = height, [""], 0
        self.scrolled: list[str] = []

    def write(self, text: str) -> int:
        for part in re.findall(r"\x1b\[\d*[A-Za-z]|\n|[^\x1b\n]+", text):
            if up := re.fullmatch(r"\x1b\[(\d+)F", part):
                self.row = max(0, self.row - int(up[1]))
            elif part == "\x1b[2K":
                self.lines[self.row] = ""
            elif part == "\n":
                self.row += 1
                if self.row == len(self.lines):
                    self.lines.append("")
                if len(self.lines) > self.height:
                    self.scrolled.append(self.lines.pop(0))
                    self.row -= 1
            elif not part.startswith("\x1b"):
                self.lines[self.row] = part
        return len(text)


def test_more_backends_than_the_terminal_has_lines_are_shown_in_part_and_never_twice() -> None:
    screen = Screen(height=10)
    console = Console(file=screen, width=100, height=10, force_terminal=True, color_system=None)
    with live_view(console, num_runs=30) as view:
        for number in range(30):
            view.phase(f"variant-{number:02}", "starting")
            view.phase(f"variant-{number:02}", "stopping")
        view.phase("variant-03", "starting")
    assert screen.scrolled == [], "nothing has left the screen"
    shown = [line.split()[0] for line in screen.lines if line.strip()]
    assert shown == ["backend", "variant-03", *(f"variant-{number}" for number in range(24, 30)), "0"]
    assert "0 of 30 runs, 23 more backends" in "\n".join(screen.lines)


def test_wide_letters_and_line_breaks_in_a_name_wrap_no_line() -> None:
    output = io.StringIO()
    with live_view(Console(file=output, width=30, force_terminal=True, color_system=None), num_runs=1) as view:
        view.phase("\u6a21\u578b" * 20 + "\nbroken", "starting")
    lines = [line.rpartition("\x1b[2K")[2] for line in output.getvalue().splitlines()]
    assert "broken" not in "".join(lines)
    assert max(map(cell_len, lines)) < 30
    assert len(lines) == 2 * 3


def test_a_drawing_costs_a_fraction_of_a_millisecond() -> None:
    view = LiveView(num_runs=1, clock=FakeClock())
    for label in ("vllm", "reference", "tgi"):
        view.phase(label, "starting")
    view.run_begins(KEY, 300)
    for index in range(300):
        view.record(KEY, record(index, ended_at=2.0))
    assert min(timeit.repeat(view.drawn, number=10, repeat=20)) / 10 < 0.001, (
        "the best of many: others use this machine"
    )
