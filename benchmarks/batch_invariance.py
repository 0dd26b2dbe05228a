"""What `batch_invariant` costs: output tokens per second with it and without, in one process and one run.

    python benchmarks/batch_invariance.py [--model SOURCE] [--dtype DTYPE] [--kernels KERNELS] [--quantization NAME]
                                          [--repeats N] [--num-output-tokens N] [--out FILE]

Greedy, 128 random tokens in and 64 out for each sequence (end of sequence ignored), prefill counted, all sequences at
once, at 1, 8 and 32. Both engines take turns on the same prompts, first one and then the other first; medians of the
pairs are told. In every round one sequence, chosen at random, is also computed alone: with the option its tokens must
be the same, exit code 1 if not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
from pathlib import Path

import msgspec
import torch

from enginebay.clock import MonotonicClock
from enginebay.engine.engine import Engine
from enginebay.engine.factory import assemble
from enginebay.engine.model_runner import ModelRunner
from enginebay.engine.request import EngineRequest
from enginebay.engine.settings import EngineConfig
from enginebay.loadtest.environment import describe_environment
from enginebay.models.sources import resolve_model

NUM_INPUT_TOKENS = 128
NUM_OUTPUT_TOKENS = 64
BATCH_SIZES = (1, 8, 32)
DEFAULT_OUT = Path(__file__).parent / "results" / "batch_invariance.json"

Prompts = list[list[int]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--quantization")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--num-output-tokens", type=int, default=NUM_OUTPUT_TOKENS)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    arguments = parser.parse_args()
    settings = {
        "model_dir": str(resolve_model(arguments.model)),
        "dtype": arguments.dtype,
        "kernels": arguments.kernels,
        "quantization": arguments.quantization,
        "max_num_seqs": max(BATCH_SIZES),
        "max_model_len": 1024,
        "enable_prefix_caching": False,
    }
    engines = {is_on: Timed(EngineConfig(**settings, batch_invariant=is_on)) for is_on in (False, True)}
    batches = [
        measured(size, engines, repeats=arguments.repeats, num_output_tokens=arguments.num_output_tokens)
        for size in BATCH_SIZES
    ]
    result = {
        "model": arguments.model,
        "dtype": arguments.dtype,
        "kernels": engines[False].kernels,
        "kernels_batch_invariant": engines[True].kernels,
        "quantization": arguments.quantization,
        "num_input_tokens": NUM_INPUT_TOKENS,
        "num_output_tokens": arguments.num_output_tokens,
        "num_threads": torch.get_num_threads(),
        "load_average_at_end": round(os.getloadavg()[0], 2),
        "environment": msgspec.to_builtins(describe_environment()),
        "batches": batches,
    }
    text = json.dumps(result, indent=2)
    print(text)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n", encoding="utf-8")
    return 0 if all(batch["num_changed_with"] == 0 for batch in batches) else 1


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


def measured(batch_size: int, engines: dict[bool, Timed], *, repeats: int, num_output_tokens: int) -> dict[str, object]:
    speeds: dict[bool, list[float]] = {False: [], True: []}
    num_changed = {False: 0, True: 0}
    for repeat in range(repeats):
        rng = random.Random(1000 * batch_size + repeat)
        prompts = [
            [rng.randrange(engines[True].vocab_size) for _ in range(NUM_INPUT_TOKENS)] for _ in range(batch_size)
        ]
        chosen = rng.randrange(batch_size)
        for is_on in (False, True) if repeat % 2 == 0 else (True, False):
            speed, together = engines[is_on].run(prompts, num_output_tokens)
            speeds[is_on].append(speed)
            _, [alone] = engines[is_on].run([prompts[chosen]], num_output_tokens)
            num_changed[is_on] += alone != together[chosen]
    ratios = [with_it / without for without, with_it in zip(speeds[False], speeds[True], strict=True)]
    return {
        "batch_size": batch_size,
        "output_tokens_per_s": statistics.median(speeds[False]),
        "output_tokens_per_s_batch_invariant": statistics.median(speeds[True]),
        "speed_ratio": statistics.median(ratios),
        "speed_ratios": ratios,
        "num_compared_alone": repeats,
        "num_changed_without": num_changed[False],
        "num_changed_with": num_changed[True],
    }


if __name__ == "__main__":
    raise SystemExit(main())
