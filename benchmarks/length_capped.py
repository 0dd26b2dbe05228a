"""Do outputs of the default workload reach their planned length although nothing keeps the model from ending?

    python benchmarks/length_capped.py [--seeds 5] [--out FILE]

The workload that `enginebay bench` makes without being told any other, for each of several seeds, on the reference
engine with the demo model, end of sequence honoured. Writes the share of outputs that reached max_tokens as JSON.
Such a load runs alike on engines that cannot ignore the end of a sequence.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

import msgspec

from enginebay import get_backend
from enginebay.config.bench import BenchConfig
from enginebay.guard import GuardedBackend
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.from_config import plan_from_config
from enginebay.loadtest.plan import Plan, PlannedRequest
from enginebay.loadtest.tokenizer import FileTokenizer
from enginebay.models.sources import resolve_model
from enginebay.types import FinishReason

MODEL = "smollm2-135m"
BOUND_RATIO = 0.95
DEFAULT_OUT = Path(__file__).parent / "results" / "length_capped.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="plans with the seeds 0, 1, ...")
    parser.add_argument("--requests", type=int, default=96, help="of each plan")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    arguments = parser.parse_args()
    rows = asyncio.run(measure(range(arguments.seeds), num_requests=arguments.requests))
    report = {"model": MODEL, "bound_ratio": BOUND_RATIO, "environment": describe_environment(), "plans": rows}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    for row in rows:
        print(f"seed {row['seed']}: {row['num_capped']} of {row['num_requests']} outputs reach their planned length")
    return 0 if all(row["num_capped"] >= BOUND_RATIO * row["num_requests"] for row in rows) else 1


async def measure(seeds: range, *, num_requests: int) -> list[dict[str, int]]:
    plans = {seed: default_plan(seed, num_requests=num_requests) for seed in seeds}
    async with get_backend("reference", model=MODEL) as backend:
        return [await _row(backend, seed, plan) for seed, plan in plans.items()]


def default_plan(seed: int, *, num_requests: int) -> Plan:
    settings = BenchConfig(seed=seed, num_requests=num_requests, ignore_eos=False)
    return plan_from_config(settings, model=MODEL, tokenizer=FileTokenizer(resolve_model(MODEL)))


async def _row(backend: GuardedBackend, seed: int, plan: Plan) -> dict[str, int]:
    requests = plan.loads[0].requests
    reasons = await asyncio.gather(*(_finish_reason(backend, request, seed=seed) for request in requests))
    return {"seed": seed, "num_requests": len(requests), "num_capped": reasons.count(FinishReason.LENGTH)}


async def _finish_reason(backend: GuardedBackend, planned: PlannedRequest, *, seed: int) -> FinishReason | None:
    chunks = [chunk async for chunk in backend.generate(planned.to_request(f"{seed}-{planned.index}"))]
    return chunks[-1].finish_reason


if __name__ == "__main__":
    raise SystemExit(main())
