"""Where the time of a step goes: the model, drawing tokens, and the rest, which is scheduling and bookkeeping.

    python benchmarks/step_profile.py [--users 32] [--repeats 3] [--out benchmarks/results/step_profile.json]

Out of the engine's own counters, read before and after a load over HTTP: 128 tokens in, 64 out for each user. The
model's share has the preparation of its input in it. `between` is the time in which the engine had work and made no
step: messages, and waiting for the processor. Exit code 1 if scheduling and bookkeeping take more than 8 % of the step.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from bench_runs import revision, spread, uniform_plan

from enginebay import quantities
from enginebay.backend import Backend
from enginebay.cli.event_loop import new_event_loop
from enginebay.clock import MonotonicClock
from enginebay.config.loader import load_config
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.plan import PlannedLoad, PlannedRequest
from enginebay.loadtest.records import Record
from enginebay.loadtest.runner import Runner
from enginebay.loadtest.subjects import subject_of

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "engine-bars.yaml"
LABELS = ("reference-bf16", "reference-int8")
DEFAULT_OUT = ROOT / "benchmarks" / "results" / "step_profile.json"
MOST_REST_RATIO = 0.08


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        rows = [runner.run(profiled(label, users=arguments.users, num_repeats=arguments.repeats)) for label in LABELS]
    result = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "users": arguments.users,
        "most_rest_ratio": MOST_REST_RATIO,
        "load_average_at_end": round(os.getloadavg()[0], 2),
        "revision": revision(),
        "environment": msgspec.to_builtins(describe_environment()),
        "rows": rows,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(rows, indent=2))
    return 0 if all(row["is_met"] for row in rows) else 1


async def profiled(label: str, *, users: int, num_repeats: int) -> dict[str, Any]:
    """On one start; each repetition has prompts of its own."""
    config = load_config(CONFIG)
    plan = uniform_plan(config, label, num_requests=users, users=[users] * num_repeats)
    async with subject_of(config, CONFIG, label, clock=MonotonicClock()).open() as backend:
        await replay(backend, plan.loads[0], plan.loads[0].warmup)
        shares = [await profile(backend, load) for load in plan.loads]
        settings = dict(backend.info.effective_settings)
    rest = spread([share["rest_ratio"] for share in shares])
    return {
        "label": label,
        "num_repeats": num_repeats,
        "step_ms": spread([share["step_ms"] for share in shares]),
        "model_ratio": spread([share["model_ratio"] for share in shares]),
        "sample_ratio": spread([share["sample_ratio"] for share in shares]),
        "rest_ratio": rest,
        "between_ratio": spread([share["between_ratio"] for share in shares]),
        "kernels": settings.get("kernels"),
        "is_met": rest["median"] <= MOST_REST_RATIO,
    }


async def profile(backend: Backend, load: PlannedLoad) -> dict[str, float]:
    before = (await backend.stats()).extra
    await replay(backend, load, load.requests)
    return shares_between(before, (await backend.stats()).extra)


async def replay(backend: Backend, load: PlannedLoad, requests: tuple[PlannedRequest, ...]) -> None:
    records: list[Record] = []
    runner = Runner(backend, clock=MonotonicClock(), on_record=records.append, request_timeout_s=600.0)
    await runner.run(requests, load.load)
    if failed := [record.error_message for record in records if not record.is_finished]:
        raise SystemExit(f"{len(failed)} requests failed, the first with: {failed[0]}")


def shares_between(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Of the time in steps, but for `between_ratio`, which is of the time with work."""

    def difference(quantity: quantities.Quantity) -> float:
        return after[quantity.prometheus_name] - before[quantity.prometheus_name]

    step_s = difference(quantities.ENGINE_STEP_SECONDS)
    model_s = difference(quantities.ENGINE_MODEL_SECONDS)
    sample_s = difference(quantities.ENGINE_SAMPLE_SECONDS)
    busy_s = difference(quantities.ENGINE_BUSY_SECONDS)
    return {
        "step_ms": 1000 * step_s / difference(quantities.ENGINE_STEPS),
        "model_ratio": model_s / step_s,
        "sample_ratio": sample_s / step_s,
        "rest_ratio": (step_s - model_s - sample_s) / step_s,
        "between_ratio": (busy_s - step_s) / busy_s,
    }


if __name__ == "__main__":
    raise SystemExit(main())
