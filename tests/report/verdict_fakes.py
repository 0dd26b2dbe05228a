"""Two backends under two loads, three starts each, and a verdict between them: made up, and measured by nobody."""

from __future__ import annotations

from pathlib import Path

import msgspec
from report_fakes import ENVIRONMENT, _in_slots, _run

from enginebay.loadtest.metrics import ServiceLevels, run_metrics
from enginebay.loadtest.plan import Load
from enginebay.loadtest.records import RecordLine, write_records
from enginebay.loadtest.result import Result, save_result
from enginebay.verdict.verdict import (
    FILE_NAME,
    Interval,
    LoadVerdict,
    MetricVerdict,
    Reason,
    Verdict,
    save_verdict,
)

LOADS = (Load(users=4), Load(users=16))
STEPS_S = {"continuous": 0.05, "naive": 0.07}


def save_two_backends(folder: Path, *, num_requests: int = 24, num_starts: int = 3) -> Result:
    runs, lines = [], []
    for start in range(num_starts):
        for label, step_s in STEPS_S.items():
            for load in LOADS:
                outputs = [16 + (7 * index + start) % 33 for index in range(num_requests)]
                records = _in_slots(outputs, num_slots=load.users or 1, step_s=step_s * (1 + 0.02 * start))
                run = msgspec.structs.replace(
                    _run(label, records),
                    load=load,
                    start_index=start,
                    metrics=run_metrics(records, ServiceLevels()),
                )
                runs.append(run)
                lines += [RecordLine(run=run.key, record=record) for record in records]
    result = Result(
        status="complete",
        created_at="2026-11-22T08:00:00+00:00",
        plan_sha256="cd" * 32,
        model="smollm2-135m",
        workload=f"{num_requests} requests, 16 to 48 tokens out",
        seed=0,
        slo=ServiceLevels(),
        environment=ENVIRONMENT,
        runs=tuple(runs),
    )
    save_result(result, folder / "result.json")
    write_records(folder / "records.jsonl", lines)
    save_verdict(make_verdict(), folder / FILE_NAME)
    return result


def make_verdict(**changes) -> Verdict:
    verdict = Verdict(
        plan_sha256="cd" * 32,
        subjects=("continuous", "naive"),
        status="judged",
        paired=True,
        margin=0.05,
        confidence=0.95,
        num_hypotheses=4,
        loads=(
            LoadVerdict(
                first="continuous",
                second="naive",
                load=LOADS[0],
                status="judged",
                metrics=(
                    _metric("output_tokens_per_s", 80.0, 57.0, "slower"),
                    _metric("ttft_s.p50", 0.05, 0.07, "slower"),
                ),
                reasons=(
                    Reason(
                        quantity="batch_size",
                        first_value=3.8,
                        second_value=1.0,
                        sentence="continuous computed 3.8 requests at a time, naive 1.",
                    ),
                ),
            ),
            LoadVerdict(
                first="continuous",
                second="naive",
                load=LOADS[1],
                status="judged",
                metrics=(
                    _metric("output_tokens_per_s", 300.0, 290.0, "equivalent"),
                    _metric("ttft_s.p99", 0.4, 0.42, "undecided", why="the interval holds both", more=7),
                ),
            ),
        ),
        headline="naive is slower than continuous with 4 users, and neither is shown to be faster with 16.",
        sentences=("With 4 users naive gave 0.71 times the output tokens per second (0.66 to 0.77).",),
        caveats=("Both ran on one machine, one after the other.",),
    )
    return msgspec.structs.replace(verdict, **changes)


def _metric(
    metric: str, first: float, second: float, outcome, *, why: str = "", more: int | None = None
) -> MetricVerdict:
    ratio = second / first
    return MetricVerdict(
        first="continuous",
        second="naive",
        load=LOADS[0],
        metric=metric,
        better="more" if metric.endswith("per_s") else "less",
        outcome=outcome,
        why_undecided=why,
        first_value=first,
        second_value=second,
        ratio=ratio,
        interval=Interval(low=ratio * 0.93, high=ratio * 1.07, confidence=0.975),
        method="paired t",
        num_starts_first=3,
        num_starts_second=3,
        num_more_starts=more,
    )
