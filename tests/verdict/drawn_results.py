"""Results whose figures are drawn from known laws: how fast each backend truly is, and how much its starts scatter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from enginebay.loadtest.engine_figures import EngineFigures
from enginebay.loadtest.environment import Environment
from enginebay.loadtest.metrics import Distribution, Metrics, ServiceLevels
from enginebay.loadtest.plan import Load
from enginebay.loadtest.result import Failure, InvalidReason, MeasuredSubject, Result, Run

EIGHT_USERS = Load(users=8)
ENVIRONMENT = Environment(
    python="CPython 3.11.9",
    operating_system="Linux 6.1.0 x86_64",
    cpu="Example CPU @ 2.00GHz",
    num_cores=2,
    memory_bytes=16 * 2**30,
    packages={"enginebay": "0.1.0"},
)


def distribution(value: float, *, num_values: int = 300) -> Distribution:
    return Distribution(num_values=num_values, mean=value, p50=value, p90=value, p95=value, p99=2 * value)


def metrics(
    speed: float,
    *,
    first_token: float = 1.0,
    goodput: float = 0.0,
    num_values: int = 300,
    num_output_tokens: int = 30_000,
    **changes,
) -> Metrics:
    """speed: how much of all is done in a second; first_token: factor on the wait for it alone."""
    duration_s = 60 / speed
    wait_s, token_s = 0.2 * first_token / speed, 0.02 / speed
    values = {
        "duration_s": duration_s,
        "num_requests": 300,
        "num_errors": 0,
        "num_unfinished": 0,
        "requests_per_s": 300 / duration_s,
        "output_tokens_per_s": num_output_tokens / duration_s,
        "goodput_rps": goodput,
        "goodput_ratio": 1.0,
        "num_prompt_tokens": 30_000,
        "num_output_tokens": num_output_tokens,
        "num_retokenized_tokens": None,
        "num_token_mismatches": 0,
        "num_missing_usage": 0,
        "num_uncounted_chunks": 0,
        "ttft_s": distribution(wait_s, num_values=num_values),
        "ttft_scheduled_s": distribution(wait_s, num_values=num_values),
        "tpot_s": distribution(token_s, num_values=num_values),
        "itl_s": None,
        "chunk_gap_s": None,
        "e2e_s": distribution(wait_s + 99 * token_s, num_values=num_values),
        "send_lag_s": None,
    }
    return Metrics(**(values | changes))


def run(
    label: str,
    start_index: int,
    measured: Metrics,
    *,
    load: Load = EIGHT_USERS,
    reasons: Sequence[InvalidReason] = (),
    engine: EngineFigures | None = None,
    **changes,
) -> Run:
    values = {
        "backend": "reference",
        "label": label,
        "load": load,
        "start_index": start_index,
        "repeat": 0,
        "status": "complete",
        "transport": "http",
        "simulated": False,
        "model": "m",
        "engine_version": "1",
        "configured_settings": {},
        "effective_settings": {},
        "valid": not reasons,
        "invalid_reasons": list(reasons),
        "client_cpu_ratio": 0.02,
        "metrics": measured,
        "engine": engine or EngineFigures(),
    }
    return Run(**(values | changes))


def drawn_runs(
    label: str,
    speed: float,
    *,
    num_starts: int,
    rng: np.random.Generator,
    noise: float = 0.05,
    load: Load = EIGHT_USERS,
    drift: Sequence[float] | None = None,
    **changes,
) -> list[Run]:
    """Each start has a luck of its own, which scatters by `noise`; drift: what all backends share in a round."""
    shared = drift if drift is not None else [0.0] * num_starts
    lucks = rng.normal(0.0, noise, num_starts)
    return [
        run(label, index, metrics(speed * math.exp(luck + shared[index])), load=load, **changes)
        for index, luck in enumerate(lucks)
    ]


def drawn_result(
    speeds: Mapping[str, float],
    *,
    num_starts: int = 8,
    seed: int = 0,
    noise: float = 0.05,
    loads: Sequence[Load] = (EIGHT_USERS,),
    drift: float = 0.0,
    **changes,
) -> Result:
    rng = np.random.default_rng(seed)
    shared = list(rng.normal(0.0, drift, num_starts))
    runs = [
        drawn
        for load in loads
        for label, speed in speeds.items()
        for drawn in drawn_runs(label, speed, num_starts=num_starts, rng=rng, noise=noise, load=load, drift=shared)
    ]
    return result(runs, labels=list(speeds), **changes)


def result(runs: Sequence[Run], *, labels: Sequence[str] = (), failures: Sequence[Failure] = (), **changes) -> Result:
    values = {
        "status": "complete",
        "created_at": "2026-11-22T08:00:00+00:00",
        "plan_sha256": "ab" * 32,
        "model": "m",
        "workload": "300 requests",
        "seed": 0,
        "slo": ServiceLevels(),
        "environment": ENVIRONMENT,
        "runs": tuple(runs),
        "failures": tuple(failures),
        "subjects": tuple(MeasuredSubject(label=label, backend="reference") for label in labels),
    }
    return Result(**(values | changes))
