"""Why one is faster, as far as the engines tell: what differs between them in every start, with its figures.

A quantity is named only where both sides tell it, where it differs by LEAST_DIFFERENCE, and where no start of one side
reaches into the other's: what a single start would overturn explains nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from enginebay.loadtest.result import Run
from enginebay.verdict.comparison.causes import CAUSES, Cause
from enginebay.verdict.comparison.contest import Contest, Start
from enginebay.verdict.comparison.phrases import seconds
from enginebay.verdict.verdict import Reason

LEAST_DIFFERENCE = 0.1
"""Of the larger of the two values."""
LEAST_SHARE = 0.02
"""For what is itself a share of a whole."""


def reasons(contest: Contest) -> tuple[Reason, ...]:
    """The parts of an answer's time first, then what differs most."""
    found = [reason for cause in CAUSES if (reason := _reason(contest, cause)) is not None]
    found.sort(key=lambda reason: -_distance(reason.first_value, reason.second_value))
    return (*_parts_of_an_answer(contest), *found)


def _reason(contest: Contest, cause: Cause) -> Reason | None:
    value = cause.value_between([run for side in contest.starts for start in side for run in start])
    first, second = (_values(side, value) for side in contest.starts)
    if not first or not second or not _differ(first, second, is_share=cause.is_share):
        return None
    first_value, second_value = sum(first) / len(first), sum(second) / len(second)
    return Reason(
        quantity=cause.quantity,
        first_value=first_value,
        second_value=second_value,
        sentence=cause.sentence.format(
            first=contest.first.name,
            second=contest.second.name,
            first_value=cause.shown(first_value),
            second_value=cause.shown(second_value),
        ),
    )


def _values(side: Sequence[Start], value: Callable[[Run], float | None]) -> list[float]:
    """One for each start; none at all where a run does not tell."""
    values = [[value(run) for run in start] for start in side]
    told = [[item for item in start if item is not None] for start in values]
    is_told = all(len(some) == len(start) for some, start in zip(told, values, strict=True))
    return [sum(start) / len(start) for start in told] if is_told else []


def _differ(first: Sequence[float], second: Sequence[float], *, is_share: bool) -> bool:
    if not (max(first) < min(second) or max(second) < min(first)):
        return False
    one, other = sum(first) / len(first), sum(second) / len(second)
    least = LEAST_SHARE if is_share else LEAST_DIFFERENCE * max(abs(one), abs(other))
    return abs(one - other) >= least


def _distance(one: float, other: float) -> float:
    return math.inf if min(one, other) <= 0 else abs(math.log(one / other))


def _parts_of_an_answer(contest: Contest) -> Iterator[Reason]:
    """How much of the difference is the wait for the first token, how much the tokens after it."""
    parts = [[_values(side, value) for side in contest.starts] for value in (_answer_s, _first_token_s)]
    (first_whole, second_whole), (first_wait, second_wait) = parts
    if not first_whole or not second_whole or not first_wait or not second_wait:
        return
    if not _differ(first_whole, second_whole, is_share=False):
        return
    whole, wait = (_means(*pair) for pair in ((first_whole, second_whole), (first_wait, second_wait)))
    after = (whole[1] - wait[1]) - (whole[0] - wait[0])
    yield Reason(
        quantity="e2e_s",
        first_value=whole[0],
        second_value=whole[1],
        sentence=f"An answer took {_less_or_more(whole[1] - whole[0])} with {contest.second.name} than with "
        f"{contest.first.name}: {_less_or_more(wait[1] - wait[0])} up to its first token, "
        f"{_less_or_more(after)} after it.",
    )


def _answer_s(run: Run) -> float | None:
    return None if run.metrics.e2e_s is None else run.metrics.e2e_s.mean


def _first_token_s(run: Run) -> float | None:
    return None if run.metrics.ttft_s is None else run.metrics.ttft_s.mean


def _means(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    return sum(first) / len(first), sum(second) / len(second)


def _less_or_more(difference_s: float) -> str:
    return f"{seconds(abs(difference_s))} {'less' if difference_s < 0 else 'more'}"
