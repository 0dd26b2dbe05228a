"""Output tokens per second of the reference engine and of transformers' `generate`, in one process and one run.

    python benchmarks/engine_vs_transformers.py [--model SOURCE] [--repeats N] [--out FILE]

Greedy, bfloat16, 128 random tokens in and 64 out for each sequence (end of sequence ignored), prefill counted, all
sequences at once. The two take turns, first one and then the other first, on the same prompts; medians are compared.
Prints and writes JSON; exit code 1 if a ratio misses its bar.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
from collections.abc import Callable
from pathlib import Path

import msgspec
import torch
from transformers import AutoModelForCausalLM

from enginebay.clock import MonotonicClock
from enginebay.engine.factory import build_engine
from enginebay.engine.request import EngineRequest
from enginebay.engine.settings import EngineConfig
from enginebay.loadtest.environment import describe_environment
from enginebay.models.sources import resolve_model

NUM_INPUT_TOKENS = 128
NUM_OUTPUT_TOKENS = 64
DTYPE = "bfloat16"
BARS = {1: 1.0, 8: 1.0, 32: 1.2}
"""By batch size: the least ratio of our output tokens per second to theirs."""
DEFAULT_OUT = Path(__file__).parent / "results" / "engine_vs_transformers.json"

Prompts = list[list[int]]
Generate = Callable[[Prompts], list[list[int]]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    arguments = parser.parse_args()
    model_dir = resolve_model(arguments.model)
    contenders = {"enginebay": enginebay_generate(model_dir), "transformers": transformers_generate(model_dir)}
    batches = [measured(batch_size, contenders, repeats=arguments.repeats) for batch_size in BARS]
    text = json.dumps(result(arguments.model, batches), indent=2)
    print(text)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n", encoding="utf-8")
    return 0 if all(batch["meets_bar"] for batch in batches) else 1


def enginebay_generate(model_dir: Path) -> Generate:
    config = EngineConfig(model_dir=str(model_dir), dtype=DTYPE, max_num_seqs=max(BARS), max_model_len=1024)
    engine = build_engine(config, MonotonicClock())

    def generate(prompts: Prompts) -> list[list[int]]:
        outputs: dict[str, list[int]] = {str(row): [] for row in range(len(prompts))}
        for row, prompt in enumerate(prompts):
            engine.add(request(str(row), prompt))
        while engine.has_work:
            for output in engine.step():
                outputs[output.request_id] += output.token_ids
        return list(outputs.values())

    return generate


def request(request_id: str, prompt: list[int]) -> EngineRequest:
    return EngineRequest(
        request_id=request_id,
        prompt_token_ids=prompt,
        max_tokens=NUM_OUTPUT_TOKENS,
        seed=0,
        temperature=0.0,
        ignore_eos=True,
    )


def transformers_generate(model_dir: Path) -> Generate:
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=getattr(torch, DTYPE)).eval()
    model.generation_config.eos_token_id = None  # nothing ends early

    def generate(prompts: Prompts) -> list[list[int]]:
        with torch.inference_mode():
            input_ids = torch.tensor(prompts)
            generated = model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=NUM_OUTPUT_TOKENS,
                do_sample=False,
                pad_token_id=0,
            )
        return generated[:, NUM_INPUT_TOKENS:].tolist()

    return generate


def measured(batch_size: int, contenders: dict[str, Generate], *, repeats: int) -> dict[str, object]:
    for generate in contenders.values():
        generate(random_prompts(batch_size, seed=0))
    durations_s: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats):
        prompts = random_prompts(batch_size, seed=repeat + 1)
        names = list(contenders) if repeat % 2 == 0 else list(reversed(contenders))
        for name in names:
            durations_s[name].append(duration_s(contenders[name], prompts))
    rates = {name: batch_size * NUM_OUTPUT_TOKENS / statistics.median(values) for name, values in durations_s.items()}
    ratio = rates["enginebay"] / rates["transformers"]
    print(f"batch {batch_size}: {rates} ratio {ratio:.2f}", flush=True)
    return {
        "batch_size": batch_size,
        "output_tokens_per_s": {name: round(rate, 1) for name, rate in rates.items()},
        "durations_s": {name: [round(value, 4) for value in values] for name, values in durations_s.items()},
        "ratio": round(ratio, 3),
        "bar": BARS[batch_size],
        "meets_bar": ratio >= BARS[batch_size],
    }


def duration_s(generate: Generate, prompts: Prompts) -> float:
    clock = MonotonicClock()
    started_at = clock.now()
    outputs = generate(prompts)
    elapsed_s = clock.now() - started_at
    if any(len(output) != NUM_OUTPUT_TOKENS for output in outputs):
        raise AssertionError("both sides must do the same work")
    return elapsed_s


def random_prompts(batch_size: int, *, seed: int) -> Prompts:
    """Token ids far from the special ones at the start of the vocabulary."""
    generator = random.Random(1000 * batch_size + seed)
    return [[generator.randrange(1000, 40000) for _ in range(NUM_INPUT_TOKENS)] for _ in range(batch_size)]


def result(model: str, batches: list[dict[str, object]]) -> dict[str, object]:
    return {
        "model": model,
        "dtype": DTYPE,
        "num_input_tokens": NUM_INPUT_TOKENS,
        "num_output_tokens": NUM_OUTPUT_TOKENS,
        "num_threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY"),
        "load_average_at_end": round(os.getloadavg()[0], 2),
        "environment": msgspec.to_builtins(describe_environment()),
        "batches": batches,
    }


if __name__ == "__main__":
    raise SystemExit(main())
