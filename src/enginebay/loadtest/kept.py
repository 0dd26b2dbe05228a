"""What an earlier load test measured and a later one goes on from."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from enginebay.errors import NotComparable
from enginebay.loadtest.answers import FILE_NAME as ANSWERS_FILE_NAME
from enginebay.loadtest.answers import AnswerLine, read_answers
from enginebay.loadtest.plan import Load, Plan
from enginebay.loadtest.records import RecordLine, read_records
from enginebay.loadtest.result import Failure, Run, load_result
from enginebay.loadtest.sent.sent import FILE_NAME as SENT_FILE_NAME
from enginebay.loadtest.sent.sent import SentLine, read_sent
from enginebay.loadtest.timeseries import Sample, read_samples


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
    if result.plan_sha256 != plan.sha256:
        raise NotComparable(
            f"{folder}: was measured with plan {result.plan_sha256[:12]}, and this is {plan.sha256[:12]}: "
            "go on with the same config, seed and model, or measure into another folder"
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


def _is_whole(run: Run, runs: Sequence[Run], loads: Collection[Load]) -> bool:
    """Whether every load of the plan was measured to its end on the start of this run."""
    start = [other for other in runs if (other.label, other.start_index) == (run.label, run.start_index)]
    return all(any(other.load == load and other.status == "complete" for other in start) for load in loads)
