"""The table at the end of `enginebay bench`: the runs side by side, with their ratio to the first."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from enginebay.report.certificate_words import certificate_headline
from enginebay.report.data import LoadReport, Report, Side
from enginebay.report.figures_table import Row, headline_rows, policy_rows
from enginebay.report.numbers import times
from enginebay.report.summary import summary
from enginebay.report.verdict_section import print_verdict


def print_runs(report: Report, console: Console) -> None:
    if report.is_simulated:
        console.print("[black on yellow] SIMULATED [/] these figures come from a simulator, not from an engine")
    for load in report.loads:
        console.print(_table(load, has_levels=_has_levels(report)))
    for sentence in summary(report):
        console.print(f"• {sentence}", highlight=False, markup=False)
    for run in report.invalid_runs if report.verdict is None else ():  # else the verdict tells them
        for reason in run.run.invalid_reasons:
            text = f"INVALID {run.name}, {run.run.load}: {reason.code}: {reason.detail}"
            console.print(Text(text, style="red"), soft_wrap=True)
    if report.certificate is not None:
        console.print(f"• {certificate_headline(report.certificate)}", highlight=False, markup=False)
    if report.verdict is not None:
        print_verdict(report.verdict, console)


def _table(load: LoadReport, *, has_levels: bool) -> Table:
    num_starts = max(len(side.runs) for side in load.sides)
    title = f"{load.load}, medians of {num_starts} starts" if num_starts > 1 else str(load.load)
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for side in load.sides:
        table.add_column(_heading(side), justify="right", no_wrap=True)
    metrics = [run.run.metrics for run in load.runs]
    for row in headline_rows(metrics, has_levels=has_levels):
        table.add_row(row.title, *(_cell(row, side, load.sides[0]) for side in load.sides))
    if rows := policy_rows(metrics):
        table.add_section()
        for row in rows:
            table.add_row(row.title, *(_cell(row, side, load.sides[0]) for side in load.sides))
    return table


def _heading(side: Side) -> Text:
    heading = Text(side.name)
    if side.is_simulated:
        heading.append(" SIMULATED", style="yellow")
    if not side.is_valid:
        heading.append(" INVALID", style="red")
    return heading


def _cell(row: Row, side: Side, first: Side) -> Text:
    cell = Text(row.side_text(side))
    ratio = row.side_ratio(side, first)
    if ratio is not None:
        cell.append(f"  {times(ratio):>7}", style="dim")
    elif row.has_ratio and side.name != first.name:
        cell.append(" " * 9)
    return cell


def _has_levels(report: Report) -> bool:
    slo = report.result.slo
    return any(level is not None for level in (slo.ttft_s, slo.tpot_s, slo.e2e_s))
