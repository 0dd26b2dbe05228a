"""Runs as an engine with continuous batching gives them, made by a small model of one, and the evidence of them."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import msgspec
import numpy as np
from loadtest_fakes import ENVIRONMENT

from enginebay.loadtest.client_health import ClientHealth
from enginebay.loadtest.metrics import ServiceLevels, run_metrics
from enginebay.loadtest.plan import Load, PlannedLoad, PlannedRequest
from enginebay.loadtest.records import Arrival, Record, RunKey
from enginebay.loadtest.self_check.ceiling import ClientCeiling
from enginebay.loadtest.timeseries import Sample
from enginebay.loadtest.validity.checks import Check, validity
from enginebay.loadtest.validity.evidence import Evidence
from enginebay.types import SamplingParams


@dataclass(frozen=True, kw_only=True)
class Engine:
    """One step takes a token for every request of the batch, and the prompts of those that join it."""

    step_s: float = 0.02
    per_request_s: float = 0.002
    per_prompt_token_s: float = 0.0004
    max_num_seqs: int = 64
    noise: float = 0.05
    slow_start: float = 0.0
    """How much slower it is at the beginning, fading with `slow_start_s`."""
    slow_start_s: float = 1.0
    first_step_s: float = 0.0
    """What the very first step takes besides: a compilation."""


class _Waiting:
    """Requests of a closed loop come when others end, those of an open loop at their instants."""

    def __init__(self, planned: Sequence[PlannedRequest], load: Load) -> None:
        self.left = deque(planned)
        self.queue: deque[PlannedRequest] = deque()
        self.sent_at: dict[int, float] = {}
        self._is_closed = load.users is not None
        for _ in range(min(load.users or 0, len(self.left))):
            self.send(0.0)

    def send(self, at: float) -> None:
        planned = self.left.popleft()
        self.sent_at[planned.index] = at
        self.queue.append(planned)

    def one_ended(self, at: float) -> None:
        if self._is_closed and self.left:
            self.send(at)

    def arrive(self, now: float) -> None:
        while not self._is_closed and self.left and (self.left[0].offset_s or 0.0) <= now:
            self.send(self.left[0].offset_s or 0.0)


def simulated(planned_load: PlannedLoad, engine: Engine, *, seed: int) -> list[Record]:
    rng = np.random.default_rng(seed)
    waiting = _Waiting(planned_load.requests, planned_load.load)
    batch: list[tuple[PlannedRequest, list[float]]] = []
    records: list[Record] = []
    now, machine = 0.0, 0.0
    while len(records) < len(planned_load.requests):
        waiting.arrive(now)
        if not batch and not waiting.queue:
            now = waiting.left[0].offset_s or 0.0
            continue
        step_s, budget = engine.step_s + (engine.first_step_s if now == 0 else 0.0), 512
        while waiting.queue and len(batch) < engine.max_num_seqs and waiting.queue[0].num_prompt_tokens <= budget:
            joining = waiting.queue.popleft()
            budget -= joining.num_prompt_tokens
            step_s += engine.per_prompt_token_s * joining.num_prompt_tokens
            batch.append((joining, []))
        machine = 0.95 * machine + 0.3 * rng.normal(0, engine.noise)  # what else the machine does comes and goes
        warm = 1 + engine.slow_start * math.exp(-now / engine.slow_start_s)
        now += (step_s + engine.per_request_s * len(batch)) * warm * math.exp(machine + rng.normal(0, engine.noise))
        for _, tokens in batch:
            tokens.append(now)
        for planned, tokens in batch:
            if len(tokens) == planned.sampling.max_tokens:
                records.append(record_of(planned, waiting.sent_at[planned.index], tokens))
                waiting.one_ended(now)
        batch = [member for member in batch if len(member[1]) < member[0].sampling.max_tokens]
    return sorted(records, key=lambda record: record.index)


def record_of(planned: PlannedRequest, sent_at: float, tokens: Sequence[float]) -> Record:
    return Record(
        index=planned.index,
        scheduled_at=sent_at,
        sent_at=sent_at,
        ended_at=tokens[-1],
        arrivals=[Arrival(at, 1) for at in tokens],
        num_chunks=len(tokens),
        num_planned_prompt_tokens=planned.num_prompt_tokens,
        max_tokens=planned.sampling.max_tokens,
        num_prompt_tokens=planned.num_prompt_tokens,
        num_output_tokens=len(tokens),
        num_retokenized_tokens=len(tokens),
        num_cached_tokens=0,
        text="x" * len(tokens),
        finish_reason="length",
    )


def load_of(load: Load, num_requests: int, *, seed: int = 0, num_shared_tokens: int = 0) -> PlannedLoad:
    """Lengths as in the default workload; instants of a Poisson process where there is a rate."""
    rng = np.random.default_rng([seed, 7])
    offsets = np.cumsum(rng.exponential(1 / load.rate, num_requests)).tolist() if load.rate else [None] * num_requests
    return PlannedLoad(
        load=load,
        requests=tuple(
            PlannedRequest(
                index=index,
                text=f"{index} and so on",
                num_prompt_tokens=int(rng.integers(16, 257)),
                num_shared_tokens=num_shared_tokens,
                offset_s=offset_s,
                sampling=SamplingParams(max_tokens=int(rng.integers(16, 65)), temperature=0.0),
            )
            for index, offset_s in enumerate(offsets)
        ),
    )


EIGHT_USERS = Load(users=8)
FOUR_A_SECOND = Load(rate=4.0, arrivals="poisson")
HEALTHY = ClientHealth(
    send_lag_p50_s=0.0001, send_lag_p99_s=0.001, send_lag_max_s=0.002, longest_stall_s=0.004, cpu_ratios=(0.05,)
)
CEILING = ClientCeiling(
    requests_per_s=3000.0, chunks_per_s=120_000.0, num_streams=512, stream_tokens_per_s=20.0, max_stamp_error_s=0.002,
    burst_requests_per_s=4000.0,
    num_users=64, num_tokens=16, ttft_error_p50_s=0.0001, ttft_error_p99_s=0.0005, timing_requests_per_s=100.0,
    offset_error_p50_s=0.0001, offset_error_p99_s=0.0008, offset_requests_per_s=500.0, num_wrong_token_counts=0,
    server_requests_per_s=9000.0, environment=ENVIRONMENT, measured_at="2026-11-22T08:00:00+00:00",
)  # fmt: skip


def ordinary_run(
    load: Load = EIGHT_USERS, num_requests: int = 48, *, engine: Engine | None = None, seed: int = 0, **changes
) -> Evidence:
    """Valid, and nothing was left unlooked at."""
    planned_load, records = _replayed(load, num_requests, engine or Engine(), seed)
    num_tokens = sum(len(record.arrivals) for record in records)
    values = {
        "planned_load": planned_load,
        "records": records,
        "metrics": run_metrics(records, ServiceLevels()),
        "status": "complete",
        "client": HEALTHY,
        "ceiling": CEILING,
        "samples": (sample(0.0), sample(1.0, num_output_tokens=100.0 + num_tokens)),
        "percentiles": (50.0,),
    }
    return Evidence(**(values | changes))


@cache
def _replayed(load: Load, num_requests: int, engine: Engine, seed: int) -> tuple[PlannedLoad, tuple[Record, ...]]:
    """Nobody changes its records: who wants others makes copies."""
    planned_load = load_of(load, num_requests, seed=seed)
    return planned_load, tuple(simulated(planned_load, engine, seed=seed))


def sample(at: float, **changes: float | str | None) -> Sample:
    """Of an engine that had made 100 tokens before."""
    values = {
        "num_prompt_tokens": 1000.0, "num_output_tokens": 100.0, "num_preemptions": 0.0,
        "num_prefix_cache_queries": 1000.0, "num_prefix_cache_hits": 50.0, "engine_started_at": 1_790_000_000.0,
    }  # fmt: skip
    return Sample(run=RunKey(label="a", load=EIGHT_USERS), at=at, num_in_flight=0, **(values | changes))


def with_records(evidence: Evidence, **changes) -> Evidence:
    """The same values changed in all records; a function is given the record."""
    records = [
        msgspec.structs.replace(
            record, **{name: value(record) if callable(value) else value for name, value in changes.items()}
        )
        for record in evidence.records
    ]
    return replace(evidence, records=records, metrics=run_metrics(records, ServiceLevels()))


def codes(evidence: Evidence) -> list[str]:
    return [reason.code for reason in validity(evidence).reasons]


def unchecked(evidence: Evidence) -> list[str]:
    return [one.code for one in validity(evidence).unchecked]


def alarms(check: Check, evidence: Evidence) -> list[str]:
    """Of one check alone."""
    return [finding.code for finding in check(evidence) if hasattr(finding, "detail")]
