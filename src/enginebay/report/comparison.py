"""Two results side by side. It pairs runs of one load and gives their ratios; it does not say which one is better:
that takes several starts of each side and the intervals between them.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from enginebay.errors import NotComparable
from enginebay.loadtest.result import Result, Run
from enginebay.report.figures_table import headline_rows
from enginebay.report.numbers import times

UNDECIDED = "undecided"
SIMULATED = "no verdict (simulated)"
INVALID = "no verdict (invalid)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    first: Run
    second: Run

    @property
    def outcome(self) -> str:
        if self.first.simulated or self.second.simulated:
            return SIMULATED
        if not (self.first.valid and self.second.valid):
            return INVALID
        return UNDECIDED


def paired_runs(first: Result, second: Result) -> list[Pair]:
    """Runs of the same load, label, start and repeat; where each side has one label alone, labels may differ.

    Raises NotComparable where nothing can be compared: other plans, other transports, no load in common.
    """
    _demand_one_plan(first, second)
    has_one_label_each = all(len({run.label for run in result.runs}) == 1 for result in (first, second))
    partners = {_pairing_key(run, with_label=not has_one_label_each): run for run in second.runs}
    pairs = [
        Pair(first=run, second=partner)
        for run in first.runs
        if (partner := partners.get(_pairing_key(run, with_label=not has_one_label_each)))
    ]
    if not pairs:
        raise NotComparable(f"no run in common: {_labels(first)} against {_labels(second)}")
    for pair in pairs:
        _demand_one_transport(pair)
    return pairs


def print_comparison(pairs: list[Pair], console: Console, *, names: tuple[str, str], has_levels: bool) -> None:
    for pair in pairs:
        console.print(_table(pair, names=names, has_levels=has_levels))
        for run, name in zip((pair.first, pair.second), names, strict=True):
            for reason in run.invalid_reasons:
                console.print(f"[red]INVALID[/] {name}: {reason.code}: {reason.detail}", highlight=False)


def _table(pair: Pair, *, names: tuple[str, str], has_levels: bool) -> Table:
    labels = (
        f"{pair.first.label} and {pair.second.label}" if pair.first.label != pair.second.label else pair.first.label
    )
    table = Table(title=f"{labels}, {pair.first.load}", title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    table.add_column("")
    for name in (*names, "second / first"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    first, second = pair.first.metrics, pair.second.metrics
    for row in headline_rows([first, second], has_levels=has_levels):
        ratio = times(row.ratio(second, first)) if row.has_ratio and pair.outcome == UNDECIDED else ""
        verdict = pair.outcome if row.has_ratio else ""
        table.add_row(row.title, row.text(first), row.text(second), ratio, verdict)
    return table


def _demand_one_plan(first: Result, second: Result) -> None:
    if first.plan_sha256 != second.plan_sha256:
        raise NotComparable(
            f"the two results replayed different plans ({first.plan_sha256[:12]} and {second.plan_sha256[:12]}): "
            "measure both with the same config, seed and model"
        )


def _demand_one_transport(pair: Pair) -> None:
    if pair.first.transport != pair.second.transport:
        raise NotComparable(
            f"{pair.first.label} was reached over {pair.first.transport}, {pair.second.label} over "
            f"{pair.second.transport}: runs of different transports are not compared"
        )


def _pairing_key(run: Run, *, with_label: bool) -> tuple[object, ...]:
    return (run.load, run.start_index, run.repeat, run.label if with_label else None)


def _labels(result: Result) -> str:
    return ", ".join(dict.fromkeys(f"{run.label} ({run.load})" for run in result.runs)) or "no runs"
