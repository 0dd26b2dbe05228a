"""What `batch_invariant` costs: output tokens per second with it and without, in one process and one run.

    python benchmarks/batch_invariance.py [--kernels NAME ...] [--repeats N] [--out FILE]

Greedy, random tokens in, the end of sequence ignored, prefill counted, all sequences at once, at 1, 8 and 32; in
bfloat16 with the fastest kernels of this machine (128 tokens in, 64 out), and with plain PyTorch, where each row is
multiplied alone (32 in, 16 out: a sequence costs there what it is long). Both engines take turns on the same prompts,
first one and then the other first; medians of the pairs are told. In every round one sequence, chosen at random, is
also computed alone: with the option its tokens must be the same, exit code 1 if not. About 6 minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import torch
from bench_runs import revision, spread

from enginebay.clock import MonotonicClock
from enginebay.engine.engine import Engine
from enginebay.engine.factory import assemble
from enginebay.engine.model_runner import ModelRunner
from enginebay.engine.request import EngineRequest
from enginebay.engine.settings import EngineConfig
from enginebay.loadtest.environment import describe_environment
from enginebay.models.sources import resolve_model

BATCH_SIZES = (1, 8, 32)
MODEL, DTYPE = "smollm2-135m", "bfloat16"
DEFAULT_OUT = Path(__file__).parent / "results" / "batch_invariance.json"

Prompts = list[list[int]]


@dataclass(frozen=True, slots=True)
class Shape:
    num_input_tokens: int
    num_output_tokens: int
    num_repeats: int


SHAPES = {"auto": Shape(128, 64, 5), "plain": Shape(32, 16, 3)}
"""By the setting of the kernels."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernels", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--repeats", type=int, help="instead of as many as each takes by itself")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    arguments = parser.parse_args()
    runs: list[dict[str, Any]] = []
    for name in dict.fromkeys(arguments.kernels):
        shape = SHAPES[name]
        runs.append(run_of(name, replace(shape, num_repeats=arguments.repeats or shape.num_repeats)))
    result = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision(),
        "environment": msgspec.to_builtins(describe_environment()),
        "model": MODEL,
        "dtype": DTYPE,
        "num_threads": torch.get_num_threads(),
        "runs": runs,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0 if all(batch["num_changed_with"] == 0 for run in runs for batch in run["batches"]) else 1


def run_of(kernels: str, shape: Shape) -> dict[str, Any]:
    settings = {
        "model_dir": str(resolve_model(MODEL)),
        "dtype": DTYPE,
        "kernels": kernels,
        "max_num_seqs": max(BATCH_SIZES),
        "max_model_len": 1024,
        "enable_prefix_caching": False,
    }
    engines = {is_on: Timed(EngineConfig(**settings, batch_invariant=is_on)) for is_on in (False, True)}
    return {
        "kernels": engines[False].kernels,
        "kernels_batch_invariant": engines[True].kernels,
        "num_input_tokens": shape.num_input_tokens,
        "num_output_tokens": shape.num_output_tokens,
        "batches": [measured(size, engines, shape) for size in BATCH_SIZES],
    }


class Timed:
    def __init__(self, config: EngineConfig) -> None:
        runner, self._clock = ModelRunner(config), MonotonicClock()
        self.kernels, self.vocab_size = runner.kernels, runner.model_config.vocab_size
        self._engine: Engine = assemble(config, runner, self._clock)

    def run(self, prompts: Prompts, num_output_tokens: int) -> tuple[float, Prompts]:
        """Output tokens per second, and the tokens of each."""
        outputs: Prompts = [[] for _ in prompts]
        started_at = self._clock.now()
        for row, prompt in enumerate(prompts):
            self._engine.add(
                EngineRequest(
                    request_id=str(row),
                    prompt_token_ids=prompt,
                    max_tokens=num_output_tokens,
                    seed=0,
                    temperature=0.0,
                    ignore_eos=True,
                )
            )
        while self._engine.has_work:
            for output in self._engine.step():
                outputs[int(output.request_id)] += output.token_ids
        return len(prompts) * num_output_tokens / (self._clock.now() - started_at), outputs


def measured(batch_size: int, engines: dict[bool, Timed], shape: Shape) -> dict[str, Any]:
    speeds: dict[bool, list[float]] = {False: [], True: []}
    num_changed = {False: 0, True: 0}
    for repeat in range(shape.num_repeats):
        rng = random.Random(1000 * batch_size + repeat)
        prompts = [
            [rng.randrange(engines[True].vocab_size) for _ in range(shape.num_input_tokens)] for _ in range(batch_size)
        ]
        chosen = rng.randrange(batch_size)
        for is_on in (False, True) if repeat % 2 == 0 else (True, False):
            speed, together = engines[is_on].run(prompts, shape.num_output_tokens)
            speeds[is_on].append(speed)
            _, [alone] = engines[is_on].run([prompts[chosen]], shape.num_output_tokens)
            num_changed[is_on] += alone != together[chosen]
    ratios = [with_it / without for without, with_it in zip(speeds[False], speeds[True], strict=True)]
    found = {
        "batch_size": batch_size,
        "output_tokens_per_s": spread(speeds[False]),
        "output_tokens_per_s_batch_invariant": spread(speeds[True]),
        "speed_ratio": spread(ratios),
        "num_compared_alone": shape.num_repeats,
        "num_changed_without": num_changed[False],
        "num_changed_with": num_changed[True],
    }
    print(f"{engines[False].kernels}, {batch_size} sequences: {found['speed_ratio']}", flush=True)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
