"""The verdict as Markdown and on a terminal; the page has a template of its own."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from enginebay.report.numbers import share
from enginebay.report.verdict_words import agreement_words, metric_rows, status_words, verdict_lines
from enginebay.verdict.verdict import LoadVerdict, Verdict

_STYLES = {"faster": "bold green", "slower": "bold red", "equivalent": "bold", "undecided": "dim", "no verdict": "dim"}


def verdict_markdown(verdict: Verdict | None) -> Iterator[str]:
    if verdict is None:
        return
    yield f"**{_escaped(verdict.headline)}**"
    yield ""
    yield from (f"- {_escaped(line)}" for line in verdict_lines(verdict))
    yield from (f"- {_escaped(agreement_words(agreement))}" for agreement in verdict.outputs)
    for load in verdict.loads:
        yield from _table_markdown(load)
    if verdict.num_hypotheses:
        yield from ("", _meaning(verdict), "")


def verdict_document(verdict: Verdict) -> str:
    """A whole Markdown document of it, for a pull request."""
    return "\n".join(["# Verdict", "", *verdict_markdown(verdict)]).rstrip() + "\n"


def print_verdict(verdict: Verdict, console: Console) -> None:
    for load in verdict.loads:
        console.print(_table(load))
        for reason in load.reasons:
            console.print(f"  why: {reason.sentence}", highlight=False, markup=False)
    for line in verdict_lines(verdict):
        console.print(f"• {line}", highlight=False, markup=False)
    for agreement in verdict.outputs:
        console.print(f"• {agreement_words(agreement)}", highlight=False, markup=False)
    console.print(Text(verdict.headline, style="bold"))


def _table_markdown(load: LoadVerdict) -> Iterator[str]:
    status = f" **{status_words(load)}**" if status_words(load) else ""
    yield from ("", f"{load.load}: {_escaped(load.second)} against {_escaped(load.first)}{status}", "")
    yield f"| | {_escaped(load.first)} | {_escaped(load.second)} | ratio | interval | {_escaped(load.second)} is |"
    yield "|---|---:|---:|---:|---:|---|"
    for row in metric_rows(load):
        outcome = f"**{row.outcome}**" + (f" ({_escaped(row.note)})" if row.note else "")
        yield f"| {row.title} | {row.first} | {row.second} | {row.ratio} | {row.interval} | {outcome} |"
    if load.reasons:
        yield from ("", "Why, as far as the engines tell:", "")
        yield from (f"- {_escaped(reason.sentence)}" for reason in load.reasons)


def _meaning(verdict: Verdict) -> str:
    return (
        f"Intervals and outcomes hold together, over {verdict.num_hypotheses} questions, with "
        f"{share(verdict.confidence)} confidence; within {share(verdict.margin)} counts as equivalent."
    )


def _table(load: LoadVerdict) -> Table:
    title = Text(f"{load.load}: {load.second} against {load.first}", style="bold")
    if status_words(load):
        title.append(f"  {status_words(load)}", style="yellow")
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for heading in (load.first, load.second, "ratio", "interval"):
        table.add_column(heading, justify="right", no_wrap=True)
    has_verdict = load.status == "judged"
    if has_verdict:
        table.add_column("verdict")
    for row in metric_rows(load):
        cells = (row.title, row.first, row.second, row.ratio, row.interval)
        if not has_verdict:
            table.add_row(*cells)
            continue
        outcome = Text(row.outcome, style=_STYLES[row.outcome])
        if row.note:
            outcome.append(f" ({row.note})", style="dim")
        table.add_row(*cells, outcome)
    return table


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
