"""The findings in plain words. It says what was measured and what was not; it decides nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median

from enginebay.loadtest.metrics import Metrics
from enginebay.loadtest.result import MADE_GOOD
from enginebay.report.counting_words import counting_words
from enginebay.report.data import LoadReport, Report, Side
from enginebay.report.numbers import count, duration, number, share
from enginebay.verdict.comparison.phrases import listed

MAX_LOCK_STEP_RATIO = 0.5
"""With lengths that differ, users drift apart within a few requests: some hundredths ask together by chance."""


def summary(report: Report) -> list[str]:
    """Sentences, most important first."""
    sentences = [sentence for load in report.loads for sentence in _of_load(load, report)]
    return [*_failures(report), *sentences, *_errors(report), *_caveats(report)]


def _of_load(load: LoadReport, report: Report) -> Iterator[str]:
    """Of several starts the medians. Where there is a verdict, it alone says who is ahead."""
    sides = [side for side in load.sides if _tokens_per_s(side) > 0]
    if not sides:
        return
    prefix = "" if len(report.loads) == 1 else f"With {load.load}: "
    yield prefix + _throughput(sides, is_ranked=report.verdict is None)
    if first_token := _medians(sides, lambda metrics: metrics.ttft_s.p50 if metrics.ttft_s else None):
        yield f"{prefix}The median wait for the first token was {first_token}."
    if per_token := _medians(sides, lambda metrics: metrics.tpot_s.p50 if metrics.tpot_s else None):
        yield f"{prefix}Each further token took {per_token} (median)."


def _throughput(sides: list[Side], *, is_ranked: bool) -> str:
    """A rank among those that may be compared; the others are told one by one, with what is wrong with them."""
    comparable = [side for side in sides if side.is_comparable]
    ranked = comparable if is_ranked and len(comparable) > 1 else []
    alone = [side for side in sides if not ranked or not side.is_comparable]
    return " ".join([*([_rank(ranked)] if ranked else []), *map(_rate, alone)])


def _tokens_per_s(side: Side) -> float:
    return median(metrics.output_tokens_per_s for metrics in side.metrics)


def _rate(side: Side) -> str:
    marks = [mark for mark, holds in (("invalid", not side.is_valid), ("simulated", side.is_simulated)) if holds]
    name = f"{side.name} ({listed(marks)})" if marks else side.name
    return f"{name} gave {number(_tokens_per_s(side))} output tokens per second."


def _rank(sides: list[Side]) -> str:
    best, *others = sorted(sides, key=_tokens_per_s, reverse=True)
    rate = _tokens_per_s(best)
    against = [
        f"{number(rate / _tokens_per_s(side))} times {side.name} ({number(_tokens_per_s(side))})" for side in others
    ]
    return f"{best.name} gave the most output tokens per second: {number(rate)}, {listed(against)}."


def _medians(sides: list[Side], value: Callable[[Metrics], float | None]) -> str:
    of_starts = [([found for metrics in side.metrics if (found := value(metrics)) is not None], side) for side in sides]
    found = [(median(values), side.name) for values, side in of_starts if values]
    in_order = sorted(found) if all(side.is_comparable for side in sides) else found
    return listed([f"{duration(value_s)} with {name}" for value_s, name in in_order])


def _failures(report: Report) -> Iterator[str]:
    for failure in report.result.failures:
        what = f"failed with {failure.load}" if failure.load else "did not start"
        lines = failure.message.splitlines()
        since = MADE_GOOD if failure.is_made_good else ""
        yield f"{failure.label} {what} ({failure.error_class}): {lines[0] if lines else 'no message'}{since}"


def _errors(report: Report) -> Iterator[str]:
    failing = [run for run in report.runs if run.run.metrics.num_errors]
    if failing:
        told = [f"{count(run.run.metrics.num_errors)} with {run.name}" for run in failing]
        yield f"Requests failed: {listed(told)}."
    elif report.runs and not report.result.failures:
        yield "No request failed."


def _caveats(report: Report) -> Iterator[str]:
    if not report.runs:
        yield "Nothing was measured."
    elif any(not failure.is_made_good for failure in report.result.failures):
        yield from _given_up(report)
    elif report.result.status == "partial":
        yield "The load test was stopped before its end: what it had measured until then is shown."
    invalid = [run for run in report.runs if not run.run.valid]
    if invalid:
        named = listed(
            [f"{run.name} ({', '.join(reason.code for reason in run.run.invalid_reasons)})" for run in invalid]
        )
        yield f"Not as planned, and not to be compared: {named}."
    if report.result.prompt_counts in ("server", "estimated"):
        yield counting_words(report.result)
    yield from _unchecked(report)
    mismatched = [run for run in report.runs if run.run.metrics.num_token_mismatches]
    if mismatched:
        told = [f"{count(run.run.metrics.num_token_mismatches)} with {run.name}" for run in mismatched]
        yield f"Answers whose token count differs from that of their text encoded again: {listed(told)}."
    yield from _lock_step(report)
    labels = {run.run.label for run in report.runs}
    if len(labels) > 1 and len({run.run.start_index for run in report.runs}) < 3:
        yield (
            "Every backend was started fewer than three times, so these figures do not tell how much of a difference "
            "is chance."
        )


def _lock_step(report: Report) -> Iterator[str]:
    in_step = [run for run in report.runs if (run.run.client.lock_step_ratio or 0.0) > MAX_LOCK_STEP_RATIO]
    if in_step:
        told = [f"{share(run.run.client.lock_step_ratio)} of the requests with {run.name}" for run in in_step]
        yield (
            f"Users asked in lock-step: {listed(told)} were sent together with those of most other users. Lengths that "
            "are all equal do that, and so do engines that answer batch by batch; real traffic has no such waves."
        )


def _given_up(report: Report) -> Iterator[str]:
    """A backend that was measured before it failed gets its further starts; the others of the report go on anyway."""
    failed = [failure for failure in report.result.failures if not failure.is_made_good]
    last_failed = {failure.label: failure.start_index or 0 for failure in failed}
    labels = [
        label
        for label, start_index in last_failed.items()
        if not any(run.run.label == label and run.run.start_index > start_index for run in report.runs)
    ]
    if labels:
        yield f"Nothing more was measured with {listed(labels)} after the failure; the others had their turn."


def _unchecked(report: Report) -> Iterator[str]:
    """What a run could not be held to is no clean bill."""
    labels_of: dict[tuple[str, str], list[str]] = {}
    for run in report.runs:
        for one in run.run.unchecked:
            labels_of.setdefault((one.code, one.why), []).append(run.run.label)
    all_labels = {run.run.label for run in report.runs}
    for (code, why), labels in labels_of.items():
        whose = "" if set(labels) == all_labels else f" with {listed(list(dict.fromkeys(labels)))}"
        yield f"Not looked at ({code}){whose}: {why}."
