"""What a running load test shows: one line for each run, with its rate, its latest wait and its errors."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress

from enginebay.loadtest.metrics import output_tokens, ttft_s
from enginebay.loadtest.records import Record, RunKey
from enginebay.loadtest.result import Run


class Progress:
    """A `Watcher` on a terminal; where the output is no terminal, one plain line when a run ends."""

    def __init__(self, console: Console, *, num_runs: int) -> None:
        self._console = console
        self._num_runs = num_runs
        self._num_begun = 0
        self._tasks: dict[str, TaskID] = {}
        self._counts: dict[RunKey, _Counts] = {}
        self._bars = RichProgress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[state]}"),
            TimeElapsedColumn(),
            console=console,
        )

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def phase(self, label: str, what: str) -> None:
        if what == "starting":
            self._tasks[label] = self._bars.add_task(label, total=None, state=what)
        else:
            self._bars.update(self._tasks[label], state=what)

    def run_begins(self, run: RunKey, num_requests: int) -> None:
        self._num_begun += 1
        self._counts[run] = _Counts()
        self._bars.reset(
            self._tasks[run.label],
            total=num_requests,
            description=f"{run.label} [dim]{run.load} ({self._num_begun}/{self._num_runs})[/]",
            state="",
        )

    def record(self, run: RunKey, record: Record) -> None:
        counts = self._counts[run]
        counts.add(record)
        self._bars.update(self._tasks[run.label], advance=1, state=str(counts))

    def run_ends(self, run: Run) -> None:
        if not self._console.is_terminal:
            metrics = run.metrics
            self._console.print(
                f"{run.label}, {run.load}: {metrics.num_requests} requests in {metrics.duration_s:.1f} s, "
                f"{metrics.output_tokens_per_s:.1f} tokens/s, {metrics.num_errors} errors",
                highlight=False,
            )


class _Counts:
    def __init__(self) -> None:
        self.num_errors = 0
        self.num_output_tokens = 0
        self.latest_at = 0.0
        self.latest_ttft_s: float | None = None

    def add(self, record: Record) -> None:
        self.num_errors += record.is_error
        self.latest_at = max(self.latest_at, record.ended_at)
        if record.is_finished:
            self.num_output_tokens += output_tokens(record)
            self.latest_ttft_s = ttft_s(record)

    def __str__(self) -> str:
        rate = self.num_output_tokens / self.latest_at if self.latest_at > 0 else 0.0
        parts = [f"{rate:.0f} tokens/s"]
        if self.latest_ttft_s is not None:
            parts.append(f"first token after {self.latest_ttft_s:.2f} s")
        if self.num_errors:
            parts.append(f"[red]{self.num_errors} errors[/]")
        return " · ".join(parts)
