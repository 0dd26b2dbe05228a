"""All questions of a comparison together: each figure, under each load, of each subject against the first.

Two families, each held to LEVEL by Holm's procedure: that no `faster` or `slower` is wrong, and that no `equivalent`
is. A ratio that is clearly different from 1 and clearly within the margin is `equivalent`: the margin says what
matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from enginebay.statistics.effect import (
    NUM_RESAMPLES,
    RESAMPLES_PER_HYPOTHESIS,
    Effect,
    paired_effect,
    unpaired_effect,
)
from enginebay.statistics.holm import Tested, holm
from enginebay.statistics.power import starts_to_differ, starts_to_equate
from enginebay.verdict.comparison.contest import Contest
from enginebay.verdict.comparison.figures import Figure
from enginebay.verdict.verdict import NO_VERDICT, Interval, MetricVerdict, Outcome

LEVEL = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one question came to."""

    effect: Effect
    difference: Tested
    equivalence: Tested

    @property
    def outcome(self) -> Outcome:
        """As though more were better."""
        if self.equivalence.is_rejected:
            return "equivalent"
        if self.difference.is_rejected:
            return "faster" if self.effect.estimate > 0 else "slower"
        return "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    num_hypotheses: int
    by_contest: Sequence[Sequence[MetricVerdict]]


def judge_all(contests: Sequence[Contest], figures: Sequence[Figure], *, margin: float) -> Family:
    """In the order of `contests`, and of `figures` within each."""
    num_questions = len(contests) * len(figures)
    effects = {
        (number, figure): effect
        for number, contest in enumerate(contests)
        for figure in figures
        if (effect := _effect(contest, figure, num_questions=num_questions)) is not None
    }
    answers = answer_all(effects, margin=margin)
    return Family(
        num_hypotheses=len(set(map(_identity, answers.items()))),
        by_contest=[
            [_metric_verdict(contest, figure, answers.get((number, figure)), margin=margin) for figure in figures]
            for number, contest in enumerate(contests)
        ],
    )


def answer_all(effects: dict[tuple[int, Figure], Effect], *, margin: float) -> dict[tuple[int, Figure], Answer]:
    """Two figures of one contest whose numbers are the same in every start (tokens and requests per second, where all
    outputs are equally long) are one question, asked once."""
    distinct = list({_identity(item): item[1] for item in effects.items()}.items())
    tested = {
        identity: Answer(effect=effect, difference=difference, equivalence=equivalence)
        for (identity, effect), difference, equivalence in zip(
            distinct,
            holm([effect.p_equal() for _, effect in distinct], level=LEVEL),
            holm([effect.p_outside(math.log1p(margin)) for _, effect in distinct], level=LEVEL),
            strict=True,
        )
    }
    return {key: tested[_identity((key, effect))] for key, effect in effects.items()}


def _identity(item: tuple[tuple[int, Figure], Effect | Answer]) -> tuple[float, ...]:
    (contest, _), found = item
    effect = found.effect if isinstance(found, Answer) else found
    return contest, round(effect.estimate, 9), round(effect.standard_error, 12)


def _effect(contest: Contest, figure: Figure, *, num_questions: int) -> Effect | None:
    logs = contest.logs(figure) if contest.status == "judged" else None
    if logs is None:
        return None
    first, second = logs
    num_resamples = max(NUM_RESAMPLES, RESAMPLES_PER_HYPOTHESIS * num_questions)
    if contest.is_paired:
        differences = [after - before for before, after in zip(first, second, strict=True)]
        return paired_effect(differences, num_resamples=num_resamples)
    return unpaired_effect(first, second, num_resamples=num_resamples)


# ---------------------------------------------------------------- of one figure


def _metric_verdict(contest: Contest, figure: Figure, answer: Answer | None, *, margin: float) -> MetricVerdict:
    logs = contest.logs(figure)
    first, second = (_geometric_mean(side) for side in logs) if logs else (None, None)
    is_comparable = contest.status in ("judged", "too few starts")
    bare = MetricVerdict(
        first=contest.first.name,
        second=contest.second.name,
        load=contest.load,
        metric=figure.metric,
        better=figure.better,
        outcome="undecided",
        why_undecided=_why_no_answer(contest, figure),
        first_value=first,
        second_value=second,
        ratio=second / first if first and second and is_comparable else None,
        num_starts_first=len(contest.starts[0]),
        num_starts_second=len(contest.starts[1]),
    )
    return bare if answer is None else _answered(bare, contest, answer, margin=margin)


def _answered(bare: MetricVerdict, contest: Contest, answer: Answer, *, margin: float) -> MetricVerdict:
    effect, level = answer.effect, answer.difference.level
    outcome = _towards(answer.outcome, bare.better)
    why_undecided = _why_not_won(contest, outcome) or (_TOO_CLOSE if outcome == "undecided" else "")
    low, high = map(math.exp, effect.interval(1 - level))
    return msgspec.structs.replace(
        bare,
        outcome="undecided" if why_undecided else outcome,
        why_undecided=why_undecided,
        ratio=math.exp(effect.estimate),
        interval=Interval(low=low, high=high, confidence=1 - level),
        method=effect.method,
        p_difference=answer.difference.adjusted_p,
        p_not_equivalent=answer.equivalence.adjusted_p,
        spread_ratio=effect.spread,
        num_more_starts=_num_more_starts(contest, answer, margin=margin) if why_undecided == _TOO_CLOSE else None,
    )


_TOO_CLOSE = "the starts scatter too much to tell"


def _towards(outcome: Outcome, better: str) -> Outcome:
    """A longer latency is slower."""
    if better == "more" or outcome not in ("faster", "slower"):
        return outcome
    return "slower" if outcome == "faster" else "faster"


def _why_not_won(contest: Contest, outcome: Outcome) -> str:
    """A side that has runs or starts which do not count may have been spared its worst: it can lose, and no more."""
    winners = {
        "faster": (contest.second,),
        "slower": (contest.first,),
        "equivalent": (contest.first, contest.second),
        "undecided": (),
    }[outcome]
    unfit = [side.name for side in winners if contest.has_invalid(side)]
    return f"{' and '.join(unfit)} had invalid runs, which cannot win" if unfit else ""


def _why_no_answer(contest: Contest, figure: Figure) -> str:
    if contest.status != "judged":
        return NO_VERDICT[contest.status]
    if any(figure.is_too_few(run.metrics) for side in contest.starts for start in side for run in start):
        return f"a run has fewer than the {figure.least_values} requests that tell it"
    return "a run does not tell it, or it was 0"


def _num_more_starts(contest: Contest, answer: Answer, *, margin: float) -> int | None:
    """Whichever is shown first: a difference as large as it seems, or equivalence."""
    effect, num_starts = answer.effect, min(map(len, contest.starts))
    spread_degrees = effect.degrees_of_freedom

    differ = starts_to_differ(
        effect.estimate,
        effect.spread,
        level=answer.difference.level,
        is_paired=contest.is_paired,
        spread_degrees_of_freedom=spread_degrees,
    )
    equate = starts_to_equate(
        effect.estimate,
        effect.spread,
        margin=math.log1p(margin),
        level=answer.equivalence.level,
        is_paired=contest.is_paired,
        spread_degrees_of_freedom=spread_degrees,
    )
    enough = min((number for number in (differ, equate) if number is not None), default=None)
    return None if enough is None else max(1, enough - num_starts)


def _geometric_mean(logs: Sequence[float]) -> float:
    return math.exp(sum(logs) / len(logs))
