"""Every subject of a result against the reference engine; against the first one where that was not measured.

Of several starts the first that both have is compared: the others repeat its prompts. What an engine says differently
from start to start is the yardstick: the bound on the number of partings is never below twice that. What is set against
the yardstick is granted so only up to MOST_GRANTED: an engine that says something else each time is not thereby right.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from enginebay.errors import LoadTestError
from enginebay.loadtest.answers import FILE_NAME, Answer, AnswerLine, answers_of_records, read_answers
from enginebay.loadtest.plan import Load, Plan, PlannedLoad, load_plan
from enginebay.loadtest.records import Record, RecordLine, RunKey, read_records
from enginebay.loadtest.result import Result, Run, load_result
from enginebay.loadtest.tokenizer import TextTokenizer
from enginebay.verdict.outputs.agreement import OutputAgreement, not_compared, output_agreement
from enginebay.verdict.outputs.bounds import OutputBound, bound_for

REFERENCE = "reference"
MOST_GRANTED = 2
"""Times the bound of the type."""
ALONE = "asked apart from the load, with log-probabilities"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a result keeps of the words of its subjects."""

    result: Result
    plan: Plan
    records: Mapping[RunKey, Sequence[Record]]
    answers: Mapping[str, Sequence[Answer]]
    """By label: what was asked after the load, with log-probabilities."""


def said_in(folder: Path) -> Said:
    """Of a folder of results, or the folder that holds the given result.json. Raises LoadTestError."""
    folder = folder if folder.is_dir() else folder.parent
    answers = folder / FILE_NAME
    return said(
        load_result(folder),
        load_plan(folder / "plan.json"),
        read_records(folder / "records.jsonl"),
        read_answers(answers) if answers.exists() else (),
    )


def said(result: Result, plan: Plan, lines: Iterable[RecordLine], answers: Iterable[AnswerLine] = ()) -> Said:
    if result.plan_sha256 != plan.sha256:
        raise LoadTestError("plan.json is not the plan that result.json was measured with")
    by_run: dict[RunKey, list[Record]] = defaultdict(list)
    for line in lines:
        by_run[line.run].append(line.record)
    by_label: dict[str, list[Answer]] = defaultdict(list)
    for each in answers:
        by_label[each.label].append(each.answer)
    return Said(result=result, plan=plan, records=by_run, answers=by_label)


def output_agreements(said: Said, *, tokenizer: TextTokenizer | None = None) -> tuple[OutputAgreement, ...]:
    """One for each load and each further subject, and one more where subjects were asked for log-probabilities."""
    labels = list(dict.fromkeys(run.label for run in said.result.runs))
    kinds = {run.label: run.backend for run in said.result.runs}
    if len(labels) < 2:
        return ()
    first = next((label for label in labels if kinds[label] == REFERENCE), labels[0])
    return tuple(
        agreement
        for second in labels
        if second != first
        for agreement in output_agreements_between((said, first), (said, second), tokenizer=tokenizer)
    )


def output_agreements_between(
    first: tuple[Said, str],
    second: tuple[Said, str],
    *,
    names: tuple[str, str] | None = None,
    tokenizer: TextTokenizer | None = None,
) -> tuple[OutputAgreement, ...]:
    """Two labels, of one result or of two results of the same plan. names: for the report, else the labels."""
    (one, one_label), (other, other_label) = first, second
    if one.plan.sha256 != other.plan.sha256:
        raise LoadTestError("the results replayed different plans: there are no answers to the same prompts")
    names = names or (one_label, other_label)
    planned_loads = one.plan.loads_of_start(0)
    under_load = [_under_load(planned, first, second, names=names, tokenizer=tokenizer) for planned in planned_loads]
    alone = [_alone(first, second, names=names)] if one_label in one.answers and other_label in other.answers else []
    return (*(agreement for agreement in under_load if agreement is not None), *alone)


# ---------------------------------------------------------------- of one load


def _under_load(
    planned: PlannedLoad,
    first: tuple[Said, str],
    second: tuple[Said, str],
    *,
    names: tuple[str, str],
    tokenizer: TextTokenizer | None,
) -> OutputAgreement | None:
    """None where one of the two was not measured under it."""
    one, other = _runs(*first, planned.load), _runs(*second, planned.load)
    shared = sorted(one.keys() & other.keys())
    if not shared:
        return None
    left, right = one[shared[0]], other[shared[0]]
    where = str(planned.load)
    if reason := _why_not(planned, left, right):
        return not_compared(*names, where=where, reason=reason)
    bound = _bound(first, second, planned, tokenizer=tokenizer)
    return output_agreement(
        answers_of_records(first[0].records.get(left.key, ())),
        answers_of_records(second[0].records.get(right.key, ())),
        first=names[0],
        second=names[1],
        where=where,
        bound=bound,
        tokenizer=tokenizer,
    )


def _runs(said: Said, label: str, load: Load) -> dict[tuple[int, int], Run]:
    """By start and repeat."""
    return {(run.start_index, run.repeat): run for run in said.result.runs if run.label == label and run.load == load}


def _why_not(planned: PlannedLoad, left: Run, right: Run) -> str:
    if left.simulated or right.simulated:
        return "simulated: its words are made up"
    hottest = max((request.sampling.temperature for request in planned.requests), default=0.0)
    if hottest > 0:
        return f"drawn by chance at temperature {hottest:g}: only greedy answers are the same for equal engines"
    return ""


def _bound(
    first: tuple[Said, str], second: tuple[Said, str], planned: PlannedLoad, *, tokenizer: TextTokenizer | None
) -> OutputBound:
    load = planned.load
    bound = bound_for(*(_settings(*side, load) for side in (first, second)))
    if planned.start_index is not None:
        return bound  # each start has prompts of its own: no subject answered one twice
    yardstick, judged = (2 * _of_itself(*side, load, bound=bound, tokenizer=tokenizer) for side in (first, second))
    granted = max(bound.max_partings_per_token, yardstick, min(judged, MOST_GRANTED * bound.max_partings_per_token))
    return msgspec.structs.replace(bound, max_partings_per_token=granted)


def _settings(said: Said, label: str, load: Load) -> Mapping[str, object]:
    return next(iter(_runs(said, label, load).values())).effective_settings


def _of_itself(said: Said, label: str, load: Load, *, bound: OutputBound, tokenizer: TextTokenizer | None) -> float:
    """Partings per token between the first two starts of one subject; 0 where there is one alone."""
    runs = [runs for _, runs in sorted(_runs(said, label, load).items())][:2]
    if len(runs) < 2:
        return 0.0
    one, other = (answers_of_records(said.records.get(run.key, ())) for run in runs)
    found = output_agreement(one, other, first=label, second=label, where="", bound=bound, tokenizer=tokenizer)
    return found.partings_per_token or 0.0


def _alone(first: tuple[Said, str], second: tuple[Said, str], *, names: tuple[str, str]) -> OutputAgreement:
    load = first[0].plan.loads[0].load
    return output_agreement(
        first[0].answers[first[1]],
        second[0].answers[second[1]],
        first=names[0],
        second=names[1],
        where=ALONE,
        bound=bound_for(_settings(*first, load), _settings(*second, load)),
    )
