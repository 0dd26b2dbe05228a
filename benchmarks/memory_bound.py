"""One user in int8, held against what reading the weights once for each token allows.

    python benchmarks/memory_bound.py [--repeats 3] [--out benchmarks/results/memory_bound.json]

A decode step reads every weight that it multiplies with, once, and the keys and values of the context. Read bandwidth
is measured in the same run, before and after, with as many threads as the engine has: the sum of a gibibyte, best of
many, since a bound must not be too low. The share told is that of the bytes per second that the engine must have read.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import torch
from bench_runs import revision, spread, uniform_plan
from step_profile import CONFIG, ROOT

from enginebay.cli.event_loop import new_event_loop
from enginebay.clock import MonotonicClock
from enginebay.config.loader import load_config
from enginebay.engine.model_config import ModelConfig, read_model_config
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.metrics import tpot_s
from enginebay.loadtest.records import Record
from enginebay.loadtest.runner import Runner
from enginebay.loadtest.subjects import subject_of
from enginebay.models.sources import resolve_model

LABEL = "reference-int8"
DEFAULT_OUT = ROOT / "benchmarks" / "results" / "memory_bound.json"
WANTED_RATIO = 0.6
NUM_READ_BYTES = 2**30
NUM_READS = 15
SCALE_BYTES = 4
CACHE_BYTES = 2
"""Of one key or value: the cache is in 16 bits."""
NUM_REQUESTS = 4


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    arguments = parser.parse_args()
    bandwidth_before = read_bandwidth()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        result = runner.run(measured(arguments.repeats))
    bandwidth = max(bandwidth_before, read_bandwidth())
    result |= bounded(result, bandwidth)
    text = json.dumps(result, indent=2)
    print(text)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n", encoding="utf-8")
    return 0


def read_bandwidth() -> float:
    """Bytes a second."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    block = torch.ones(NUM_READ_BYTES // 4, dtype=torch.float32)
    clock = MonotonicClock()
    durations_s: list[float] = []
    for _ in range(NUM_READS):
        started_at = clock.now()
        block.sum()
        durations_s.append(clock.now() - started_at)
    return NUM_READ_BYTES / min(durations_s)


async def measured(num_repeats: int) -> dict[str, Any]:
    config = load_config(CONFIG)
    plan = uniform_plan(config, LABEL, num_requests=NUM_REQUESTS, users=[1] * num_repeats)
    model = read_model_config(resolve_model(plan.model))
    rates: list[float] = []
    async with subject_of(config, CONFIG, LABEL, clock=MonotonicClock()).open() as backend:
        for load in plan.loads:
            records: list[Record] = []
            runner = Runner(backend, clock=MonotonicClock(), on_record=records.append, request_timeout_s=600.0)
            await runner.run((*load.warmup, *load.requests), load.load)
            gaps = [tpot_s(record) for record in records[len(load.warmup) :]]
            rates += [1 / gap for gap in gaps if gap]
        settings = dict(backend.info.effective_settings)
    context = config.bench.input_tokens.max + config.bench.output_tokens.max // 2
    return {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "label": LABEL,
        "revision": revision(),
        "environment": msgspec.to_builtins(describe_environment()),
        "effective_settings": settings,
        "decode_tokens_per_s": spread(rates),
        "read_bytes_per_token": weight_bytes(model) + cache_bytes(model, context),
        "mean_context_tokens": context,
    }


def weight_bytes(model: ModelConfig) -> int:
    """int8 matrices of all layers and of the head, with a scale for each output channel; norms are nothing beside."""
    query, key_value = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    shapes = (
        (model.hidden_size, query + 2 * key_value),
        (query, model.hidden_size),
        (model.hidden_size, 2 * model.intermediate_size),
        (model.intermediate_size, model.hidden_size),
    )
    layer = sum(inputs * outputs + SCALE_BYTES * outputs for inputs, outputs in shapes)
    return model.num_layers * layer + model.vocab_size * (model.hidden_size + SCALE_BYTES)


def cache_bytes(model: ModelConfig, num_tokens: int) -> int:
    return 2 * model.num_layers * model.num_kv_heads * model.head_dim * num_tokens * CACHE_BYTES


def bounded(result: dict[str, Any], bandwidth: float) -> dict[str, Any]:
    most = bandwidth / result["read_bytes_per_token"]
    ratio = result["decode_tokens_per_s"]["median"] / most
    return {
        "read_bytes_per_s": round(bandwidth),
        "most_tokens_per_s": round(most, 1),
        "ratio": round(ratio, 3),
        "wanted_ratio": WANTED_RATIO,
        "is_met": ratio >= WANTED_RATIO,
    }


if __name__ == "__main__":
    raise SystemExit(main())
