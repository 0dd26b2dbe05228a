"""What one more row adds to a decode step, as a share of a step of one row: `ROW_COST_RATIO` of the engine's drafts.

    python benchmarks/row_cost.py [--repeats N] [--out FILE]

Steps of 1 to 33 sequences, each with 64 tokens behind it and one row, timed in one process; every round takes all
sizes, the medians of the rounds are told. In a step with drafts a row is the same work. The ratio is that of the line
through the step of one row that fits the others best. About a minute on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from bench_runs import revision

from enginebay.clock import MonotonicClock
from enginebay.engine.engine import Engine
from enginebay.engine.factory import assemble
from enginebay.engine.model_runner import ModelRunner
from enginebay.engine.request import EngineRequest
from enginebay.engine.settings import EngineConfig
from enginebay.engine.speculation.build import ROW_COST_RATIO
from enginebay.loadtest.environment import describe_environment
from enginebay.models.sources import resolve_model

NUM_ROWS = (1, 2, 3, 5, 9, 17, 33)
NUM_PROMPT_TOKENS, NUM_WARM_STEPS, NUM_TIMED_STEPS = 64, 4, 32
MODEL, DTYPE = "smollm2-135m", "bfloat16"
DEFAULT_OUT = Path(__file__).parent / "results" / "row_cost.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    arguments = parser.parse_args()
    config = EngineConfig(
        model_dir=str(resolve_model(MODEL)),
        dtype=DTYPE,
        max_num_seqs=max(NUM_ROWS),
        max_num_batched_tokens=NUM_PROMPT_TOKENS * max(NUM_ROWS),
        max_model_len=512,
        enable_prefix_caching=False,
    )
    runner, clock = ModelRunner(config), MonotonicClock()
    engine, vocab_size = assemble(config, runner, clock), runner.model_config.vocab_size
    rounds = [
        {rows: step_s(engine, clock, num_rows=rows, vocab_size=vocab_size) for rows in NUM_ROWS}
        for _ in range(arguments.repeats)
    ]
    steps = {rows: statistics.median(found[rows] for found in rounds) for rows in NUM_ROWS}
    result: dict[str, Any] = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision(),
        "environment": msgspec.to_builtins(describe_environment()),
        "model": MODEL,
        "dtype": DTYPE,
        "kernels": runner.kernels,
        "step_ms": {str(rows): round(found * 1000, 3) for rows, found in steps.items()},
        "row_cost_ratio": {str(rows): round(ratio, 4) for rows, ratio in ratios(steps).items()},
        "fitted_ratio": round(fitted_ratio(steps), 4),
        "assumed_ratio": ROW_COST_RATIO,
    }
    print(json.dumps({key: result[key] for key in ("step_ms", "row_cost_ratio", "fitted_ratio", "assumed_ratio")}))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def step_s(engine: Engine, clock: MonotonicClock, *, num_rows: int, vocab_size: int) -> float:
    """Median of the decode steps of so many sequences."""
    rng = random.Random(num_rows)
    for index in range(num_rows):
        engine.add(
            EngineRequest(
                request_id=str(index),
                prompt_token_ids=[rng.randrange(vocab_size) for _ in range(NUM_PROMPT_TOKENS)],
                max_tokens=1 + NUM_WARM_STEPS + NUM_TIMED_STEPS,
                seed=0,
                temperature=0.0,
                ignore_eos=True,
            )
        )
    taken: list[float] = []
    while engine.has_work:
        started_at = clock.now()
        engine.step()
        taken.append(clock.now() - started_at)
    return statistics.median(taken[1 + NUM_WARM_STEPS :])


def ratios(steps: Mapping[int, float]) -> dict[int, float]:
    """By number of rows: what each beyond the first adds, to a step of one."""
    return {rows: (taken / steps[1] - 1) / (rows - 1) for rows, taken in steps.items() if rows > 1}


def fitted_ratio(steps: Mapping[int, float]) -> float:
    """Least squares of t(n) / t(1) - 1 = ratio * (n - 1)."""
    more = {rows - 1: taken / steps[1] - 1 for rows, taken in steps.items()}
    return sum(number * cost for number, cost in more.items()) / sum(number**2 for number in more)


if __name__ == "__main__":
    raise SystemExit(main())
