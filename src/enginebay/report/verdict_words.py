"""A verdict in the words of all reports: what a figure is called, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from enginebay.report.numbers import count, duration, number, share, times
from enginebay.verdict.outputs.agreement import OutputAgreement
from enginebay.verdict.verdict import NO_VERDICT, Interval, LoadVerdict, MetricVerdict, Verdict

_NAMES = {
    "output_tokens_per_s": "Output tokens per second",
    "requests_per_s": "Requests per second",
    "goodput_rps": "Good requests per second",
    "ttft_s": "First token",
    "ttft_scheduled_s": "First token, from schedule",
    "tpot_s": "Per output token",
    "e2e_s": "Whole answer",
}
_PARTS = {"p50": "median", "mean": "mean"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    title: str
    first: str
    second: str
    ratio: str
    interval: str
    outcome: str
    """One word for the badge; `no verdict` where the load has none."""
    note: str
    """Why it is undecided, and how many more starts would decide."""


def metric_title(metric: str) -> str:
    """output_tokens_per_s -> Output tokens per second; ttft_s.p99 -> First token, p99."""
    name, _, part = metric.partition(".")
    title = _NAMES.get(name, name)
    return f"{title}, {_PARTS.get(part, part)}" if part else title


def metric_rows(load: LoadVerdict) -> list[MetricRow]:
    return [_row(metric, load) for metric in load.metrics]


def status_words(load: LoadVerdict) -> str:
    """Empty where it was judged."""
    return NO_VERDICT.get(load.status, "")


def verdict_lines(verdict: Verdict) -> Iterator[str]:
    """What stands below the headline: the findings, then what a reader must know besides."""
    yield from verdict.sentences
    yield from verdict.caveats


def agreement_words(agreement: OutputAgreement) -> str:
    """One sentence, with the load whose outputs it is about where it is about one."""
    names = f"{agreement.second} against {agreement.first}"
    place = f"Outputs, {agreement.where}" if agreement.where else names
    if agreement.not_compared:
        where = f" ({agreement.where})" if agreement.where else ""
        return f"{names}{where}: outputs not compared: {agreement.not_compared}."
    finding = agreement.finding or f"{share(agreement.agreement_ratio)} of the tokens agree"
    return f"{place}: {finding.rstrip('.')}{_BY_CHARACTER if agreement.unit == 'characters' else ''}."


_BY_CHARACTER = " (compared by character: there were neither the engines' token ids nor those of a tokenizer)"


def _row(metric: MetricVerdict, load: LoadVerdict) -> MetricRow:
    shown = duration if metric.metric.partition(".")[0].endswith("_s") and "per_s" not in metric.metric else number
    return MetricRow(
        title=metric_title(metric.metric),
        first=shown(metric.first_value),
        second=shown(metric.second_value),
        ratio=times(metric.ratio),
        interval=_interval(metric.interval),
        outcome=metric.outcome if load.status == "judged" else "no verdict",
        note=_note(metric) if load.status == "judged" else "",
    )


def _interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{times(interval.low)} to {times(interval.high)}"


def _note(metric: MetricVerdict) -> str:
    if metric.outcome != "undecided":
        return ""
    more = metric.num_more_starts
    would = f"about {count(more)} more starts of each would decide" if more else ""
    return "; ".join(filter(None, (metric.why_undecided.rstrip("."), would)))
