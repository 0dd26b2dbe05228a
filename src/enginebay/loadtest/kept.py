"""What an earlier load test measured and a later one goes on from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from enginebay.errors import NotComparable
from enginebay.loadtest.answers import FILE_NAME as ANSWERS_FILE_NAME
from enginebay.loadtest.answers import AnswerLine, read_answers
from enginebay.loadtest.plan import Load, Plan, load_plan
from enginebay.loadtest.records import RecordLine, read_records
from enginebay.loadtest.result import Failure, Result, Run, load_result
from enginebay.loadtest.sent.sent import FILE_NAME as SENT_FILE_NAME
from enginebay.loadtest.sent.sent import SentLine, read_sent
from enginebay.loadtest.timeseries import Sample, read_samples

PLAN = "plan.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """Whole starts only: a start that was cut short is measured again."""

    runs: Sequence[Run] = ()
    lines: Sequence[RecordLine] = ()
    samples: Sequence[Sample] = ()
    sent: Sequence[SentLine] = ()
    answers: Sequence[AnswerLine] = ()
    failures: Sequence[Failure] = ()
    """All that there were: what is measured better the next time has failed all the same."""

    @property
    def starts(self) -> frozenset[tuple[int, str]]:
        return frozenset((run.start_index, run.label) for run in self.runs)


def read_kept(folder: Path, plan: Plan) -> Kept:
    """Raises NotComparable for results of another plan, LoadTestError for files that cannot be read."""
    result = load_result(folder)
    if result.plan_sha256 != plan.sha256 and not _has_more_starts(folder, result, plan):
        raise NotComparable(
            f"{folder}: was measured with plan {result.plan_sha256[:12]}, and this is {plan.sha256[:12]}: "
            "go on with the same config, load, seed and model and no fewer starts, or measure into another folder"
        )
    loads = [planned.load for planned in plan.loads]
    runs = [run for run in result.runs if _is_whole(run, result.runs, loads)]
    keys = {run.key for run in runs}
    labels = {run.label for run in runs if run.start_index == 0}
    answers = folder / ANSWERS_FILE_NAME
    return Kept(
        runs=runs,
        lines=[line for line in read_records(folder / "records.jsonl") if line.run in keys],
        samples=[sample for sample in read_samples(folder / "timeseries.jsonl") if sample.run in keys],
        sent=[line for line in read_sent(folder / SENT_FILE_NAME) if line.run in keys],
        answers=[line for line in read_answers(answers) if line.label in labels] if answers.exists() else (),
        failures=result.failures,
    )


def _has_more_starts(folder: Path, result: Result, plan: Plan) -> bool:
    """Whether the plan is the result's with further starts: of a server that runs on, each has its own prompts."""
    if not (folder / PLAN).is_file():
        return False
    before = load_plan(folder / PLAN)
    if before.sha256 != result.plan_sha256 or (before.model, before.seed) != (plan.model, plan.seed):
        return False
    # Where there was one start alone, its loads have no number.
    loads = [msgspec.structs.replace(load, start_index=load.start_index or 0) for load in before.loads]
    return loads == list(plan.loads[: len(loads)])


def _is_whole(run: Run, runs: Sequence[Run], loads: Collection[Load]) -> bool:
    """Whether every load of the plan was measured to its end on the start of this run."""
    start = [other for other in runs if (other.label, other.start_index) == (run.label, run.start_index)]
    return all(any(other.load == load and other.status == "complete" for other in start) for load in loads)
