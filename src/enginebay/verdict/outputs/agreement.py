"""Do two engines say the same? Over all prompts of a greedy load: where they part, how often, and whether it matters.

Agreement is counted up to the first difference of each prompt; what follows continues another text and counts as
disagreement. Partings are told for each token that came before one, so that long answers are judged like short ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from enginebay.loadtest.answers import Answer
from enginebay.loadtest.metrics import Distribution, distribution
from enginebay.loadtest.tokenizer import TextTokenizer
from enginebay.statistics.scipy_stats import scipy_stats
from enginebay.verdict.outputs.bounds import MAX_UNEXPLAINED_RATIO, OutputBound
from enginebay.verdict.outputs.parting import END, Parting, gaps_at, num_shared

Unit = Literal["tokens", "retokenized", "characters"]
CONFIDENCE = 0.95


class OutputAgreement(msgspec.Struct, frozen=True, kw_only=True):
    """Of `second` with `first`, which is the reference engine where that was measured."""

    first: str
    second: str
    where: str
    """The load, or the extra pass, that the answers come from."""
    not_compared: str = ""
    """Why nothing below was counted: sampled with temperature, simulated, no answer in common. Empty: it was."""
    unit: Unit = "tokens"
    """`tokens`: the engines' own ids. Else the texts, cut by the plan's tokenizer now or when they were measured, or by
    character where neither was done."""
    num_prompts: int = 0
    num_prompts_that_part: int = 0
    num_units: int = 0
    """Of the longer answer of each pair."""
    num_agreeing_units: int = 0
    agreement_ratio: float | None = None
    agreement_by_prompt: Distribution | None = None
    """Each prompt's share of agreeing units."""
    parting_position: Distribution | None = None
    """Of the prompts that part."""
    partings_per_token: float | None = None
    partings_per_token_interval: tuple[float, float] | None = None
    """Clopper-Pearson, 95 %, a prompt being watched until it parts."""
    num_known_differences: int = 0
    """Partings at which both engines told their log-probabilities."""
    num_unexplained: int = 0
    """Of those, how many rounding does not explain."""
    median_difference: float | None = None
    largest_difference: float | None = None
    bound: OutputBound | None = None
    is_beyond_bound: bool = False
    finding: str = ""
    """In plain words."""
    partings: tuple[Parting, ...] = ()


def output_agreement(
    one: Sequence[Answer],
    other: Sequence[Answer],
    *,
    first: str,
    second: str,
    where: str,
    bound: OutputBound,
    tokenizer: TextTokenizer | None = None,
) -> OutputAgreement:
    """Pair answers by the index of their request; a request that only one side answered is left out."""
    pairs = _pairs(one, other)
    if not pairs:
        return OutputAgreement(first=first, second=second, where=where, not_compared="no request was answered by both")
    unit = _unit(pairs, tokenizer)
    compared = [_compared(left, right, unit=unit, tokenizer=tokenizer) for left, right in pairs]
    return _judged(compared, pairs, first=first, second=second, where=where, bound=bound, unit=unit)


def not_compared(first: str, second: str, *, where: str, reason: str) -> OutputAgreement:
    return OutputAgreement(first=first, second=second, where=where, not_compared=reason)


# ---------------------------------------------------------------- of one prompt


class _Compared(msgspec.Struct, frozen=True):
    num_shared: int
    num_units: int
    parting: Parting | None

    @property
    def ratio(self) -> float:
        return self.num_shared / self.num_units if self.num_units else 1.0


def _pairs(one: Sequence[Answer], other: Sequence[Answer]) -> list[tuple[Answer, Answer]]:
    by_index = {answer.index: answer for answer in other}
    return [(answer, by_index[answer.index]) for answer in one if answer.index in by_index]


def _unit(pairs: Sequence[tuple[Answer, Answer]], tokenizer: TextTokenizer | None) -> Unit:
    """One for all prompts, so that they can be summed."""
    if all(left.token_ids is not None and right.token_ids is not None for left, right in pairs):
        return "tokens"
    has_ids = all(answer.retokenized_ids is not None for pair in pairs for answer in pair)
    return "retokenized" if has_ids or tokenizer is not None else "characters"


def _compared(left: Answer, right: Answer, *, unit: Unit, tokenizer: TextTokenizer | None) -> _Compared:
    one, other = _units(left, unit, tokenizer), _units(right, unit, tokenizer)
    position, longest = num_shared(one, other), max(len(one), len(other))
    if position == longest:
        return _Compared(position, longest, None)
    first_gap, second_gap, is_limit = gaps_at(left, right, position) if unit == "tokens" else (None, None, False)
    parting = Parting(
        index=left.index,
        position=position,
        first=_said(left, one, position, unit=unit, tokenizer=tokenizer),
        second=_said(right, other, position, unit=unit, tokenizer=tokenizer),
        first_gap=first_gap,
        second_gap=second_gap,
        is_lower_limit=is_limit,
    )
    return _Compared(position, longest, parting)


def _units(answer: Answer, unit: Unit, tokenizer: TextTokenizer | None) -> Sequence[object]:
    if unit == "tokens":
        return answer.token_ids or ()
    if unit == "retokenized" and answer.retokenized_ids is not None:
        return answer.retokenized_ids
    return answer.text if tokenizer is None else tokenizer.encode_plain(answer.text)


def _said(
    answer: Answer, units: Sequence[object], position: int, *, unit: Unit, tokenizer: TextTokenizer | None
) -> str:
    if position >= len(units):
        return END
    if answer.logprobs is not None and position < len(answer.logprobs) and unit == "tokens":
        return answer.logprobs[position].token
    value = units[position]
    if isinstance(value, int):
        return tokenizer.decode([value]) if tokenizer is not None else f"token {value}"
    return str(value)


# ---------------------------------------------------------------- of all prompts


def _judged(
    compared: Sequence[_Compared],
    pairs: Sequence[tuple[Answer, Answer]],
    *,
    first: str,
    second: str,
    where: str,
    bound: OutputBound,
    unit: Unit,
) -> OutputAgreement:
    partings = tuple(item.parting for item in compared if item.parting is not None)
    num_units, num_agreeing = sum(item.num_units for item in compared), sum(item.num_shared for item in compared)
    num_watched = _num_tokens_watched(compared, pairs) + len(partings)
    interval = _proportion_interval(len(partings), num_watched)
    differences = [parting.difference for parting in partings if parting.difference is not None]
    num_unexplained = sum(difference > bound.max_difference for difference in differences)
    is_beyond = _is_beyond(partings, len(differences), num_unexplained, interval, bound)
    difference_summary = distribution(differences)
    return OutputAgreement(
        first=first,
        second=second,
        where=where,
        unit=unit,
        num_prompts=len(compared),
        num_prompts_that_part=len(partings),
        num_units=num_units,
        num_agreeing_units=num_agreeing,
        agreement_ratio=num_agreeing / num_units if num_units else 1.0,
        agreement_by_prompt=distribution(item.ratio for item in compared),
        parting_position=distribution(float(parting.position) for parting in partings),
        partings_per_token=len(partings) / num_watched if num_watched else 0.0,
        partings_per_token_interval=interval,
        num_known_differences=len(differences),
        num_unexplained=num_unexplained,
        median_difference=difference_summary.p50 if difference_summary else None,
        largest_difference=max(differences, default=None),
        bound=bound,
        is_beyond_bound=is_beyond,
        finding=_finding(second, first, len(compared), partings, num_unexplained, is_beyond=is_beyond, bound=bound),
        partings=partings,
    )


def _num_tokens_watched(compared: Sequence[_Compared], pairs: Sequence[tuple[Answer, Answer]]) -> int:
    """Agreeing units in tokens: of texts, each answer's own count in proportion."""
    return sum(
        round(item.ratio * max(left.num_tokens, right.num_tokens))
        for item, (left, right) in zip(compared, pairs, strict=True)
    )


def _is_beyond(
    partings: Sequence[Parting],
    num_known: int,
    num_unexplained: int,
    interval: tuple[float, float],
    bound: OutputBound,
) -> bool:
    """Where the gaps are known they decide: many ties in a row are still ties. Else the number of partings does."""
    if num_unexplained > max(1, MAX_UNEXPLAINED_RATIO * num_known):
        return True
    is_explained = num_known == len(partings)
    return not is_explained and interval[0] > bound.max_partings_per_token


def _proportion_interval(num_events: int, num_trials: int) -> tuple[float, float]:
    if num_trials == 0:
        return 0.0, 1.0
    found = scipy_stats().binomtest(num_events, num_trials).proportion_ci(CONFIDENCE, method="exact")
    return float(found.low), float(found.high)


def _finding(
    second: str,
    first: str,
    num_prompts: int,
    partings: Sequence[Parting],
    num_unexplained: int,
    *,
    is_beyond: bool,
    bound: OutputBound,
) -> str:
    if not partings:
        return f"{second} said the same as {first} to all {num_prompts} prompts"
    parted = f"{second} parted from {first} at {len(partings)} of {num_prompts} prompts"
    if num_unexplained and is_beyond:
        return (
            f"{parted}; at {num_unexplained} of them the engines differ by more than the {bound.max_difference:g} "
            f"that rounding in {bound.dtype} explains: they do not compute the same"
        )
    if is_beyond:
        return f"{parted}, oftener than rounding in {bound.dtype} explains: they do not compute the same"
    return f"{parted}, no further than rounding in {bound.dtype} explains"
