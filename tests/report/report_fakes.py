"""Results like those of three batching policies, made by a small model of each: no engine, no clock."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec

from enginebay.loadtest.environment import Environment
from enginebay.loadtest.metrics import ServiceLevels, run_metrics
from enginebay.loadtest.plan import Load
from enginebay.loadtest.policy_metrics import PolicyMetrics
from enginebay.loadtest.records import Arrival, Record, RecordLine, write_records
from enginebay.loadtest.result import InvalidReason, Result, Run, save_result
from enginebay.loadtest.timeseries import Sample, write_samples

USERS = 16
LOAD = Load(users=USERS)
ENVIRONMENT = Environment(
    python="CPython 3.11.9",
    operating_system="Linux 6.1.0 x86_64",
    cpu="Example CPU @ 2.00GHz",
    num_cores=2,
    memory_bytes=16 * 2**30,
    packages={"enginebay": "0.1.0", "torch": "2.13.0"},
)
POLICIES = {
    "naive": PolicyMetrics(
        padding_ratio=0.0, idle_slot_ratio=0.0, batch_wait_s=30.1, outside_model_ratio=0.04, engine_idle_ratio=0.001,
        mean_batch_size=1.0, num_steps=1965,
    ),
    "static": PolicyMetrics(
        padding_ratio=0.412, idle_slot_ratio=0.377, batch_wait_s=2.2, outside_model_ratio=0.05, engine_idle_ratio=0.01,
        mean_batch_size=9.9, num_steps=197,
    ),
    "continuous": PolicyMetrics(
        padding_ratio=0.0, idle_slot_ratio=0.113, batch_wait_s=0.051, outside_model_ratio=0.06, engine_idle_ratio=0.01,
        mean_batch_size=14.2, num_steps=140,
    ),
}  # fmt: skip


def save_three_policies(folder: Path, *, num_requests: int = 48, num_errors: int = 0, **changes) -> Result:
    """Saved like a load test saves; `changes` replace fields of the last run."""
    lengths = random.Random(1)
    outputs = [lengths.randint(16, 64) for _ in range(num_requests)]
    results = {
        "naive": _in_slots(outputs, num_slots=1, step_s=0.045),
        "static": _in_batches(outputs, step_s=0.075),
        "continuous": _in_slots(outputs, num_slots=USERS, step_s=0.08),
    }
    for record in results["continuous"][:num_errors]:
        record.error_class, record.error_message = "EngineDied", "the engine <went> away | for good"
    runs = [_run(label, records) for label, records in results.items()]
    runs[-1] = msgspec.structs.replace(runs[-1], **changes)
    result = Result(
        status="complete",
        created_at="2026-11-22T08:00:00+00:00",
        plan_sha256="ab" * 32,
        model="smollm2-135m",
        workload=f"{num_requests} requests, 16 to 256 tokens in, 16 to 64 out, uniform",
        seed=0,
        slo=ServiceLevels(),
        environment=ENVIRONMENT,
        runs=tuple(runs),
    )
    save_result(result, folder / "result.json")
    write_records(
        folder / "records.jsonl",
        [RecordLine(run=run.key, record=record) for run in runs for record in results[run.label]],
    )
    write_samples(folder / "timeseries.jsonl", [sample for run in runs for sample in _samples(run, results[run.label])])
    return result


def _run(label: str, records: list[Record]) -> Run:
    metrics = run_metrics(records, ServiceLevels(), policy=POLICIES[label])
    errors = [InvalidReason(code="errors", detail="too many")] if metrics.num_errors else []
    return Run(
        backend="reference",
        label=label,
        load=LOAD,
        start_index=0,
        repeat=0,
        status="complete",
        transport="http",
        simulated=False,
        model="smollm2-135m",
        engine_version="0.1.0",
        configured_settings={"dtype": "bfloat16", "max_num_seqs": 16, "policy": label},
        effective_settings={},
        valid=not errors,
        invalid_reasons=errors,
        client_cpu_ratio=0.021,
        metrics=metrics,
    )


def _in_slots(outputs: list[int], *, num_slots: int, step_s: float) -> list[Record]:
    """Sixteen users; a request computes as soon as one of the slots is free."""
    users, slots, records = [0.0] * USERS, [0.0] * num_slots, []
    for index, num_tokens in enumerate(outputs):
        sent_at = heap_take(users)
        begins_at = max(sent_at, heap_take(slots)) + step_s
        record = _record(index, sent_at, [begins_at + step_s * number for number in range(num_tokens)])
        users.append(record.ended_at)
        slots.append(record.ended_at)
        records.append(record)
    return records


def _in_batches(outputs: list[int], *, step_s: float) -> list[Record]:
    records: list[Record] = []
    sent_at = 0.0
    for start in range(0, len(outputs), USERS):
        batch = outputs[start : start + USERS]
        for index, num_tokens in enumerate(batch, start):
            at = sent_at + 0.2 + step_s
            records.append(_record(index, sent_at, [at + step_s * number for number in range(num_tokens)]))
        sent_at += 0.2 + step_s * max(batch)
    return records


def _record(index: int, sent_at: float, arrivals: list[float]) -> Record:
    return Record(
        index=index,
        scheduled_at=sent_at,
        sent_at=sent_at,
        ended_at=arrivals[-1],
        arrivals=[Arrival(at, 1) for at in arrivals],
        num_chunks=len(arrivals) + 1,
        num_planned_prompt_tokens=100,
        max_tokens=len(arrivals),
        num_prompt_tokens=100,
        num_output_tokens=len(arrivals),
        num_retokenized_tokens=len(arrivals),
        text="word " * len(arrivals),
        finish_reason="length",
    )


def _samples(run: Run, records: list[Record]) -> list[Sample]:
    end_s = max(record.ended_at for record in records)
    samples = []
    for number in range(int(end_s / 0.5) + 1):
        at = number * 0.5
        flying = [record for record in records if record.sent_at <= at < record.ended_at]
        running = [record for record in flying if (record.first_token_at or 0) <= at]
        samples.append(
            Sample(
                run=run.key, at=at, num_in_flight=len(flying), num_running=len(running),
                num_waiting=len(flying) - len(running),
            )
        )  # fmt: skip
    return samples


def heap_take(values: list[float]) -> float:
    smallest = min(values)
    values.remove(smallest)
    return smallest
