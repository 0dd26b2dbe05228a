"""Ten thousand mixed random requests through one engine: leaks, wrong tokens, ends that are missing or told twice.

    python benchmarks/soak.py [--model SOURCE] [--requests N] [--dtype DTYPE] [--batch-invariant] [--out FILE]

Every feature at once: random lengths, priorities, deadlines (on a clock that moves with the steps), sampling of every
kind, stop tokens, log-probabilities, cancels, resumed outputs, shared prefixes, n-gram drafts, the dynamic policy, and
so few KV blocks that requests are preempted. One request in fifty that ran to its end is computed again alone, on the
plain layers in float32, without any of this. In another dtype that would compare roundings: there use
--batch-invariant, and the second engine has the same kernels and dtype. Prints and writes JSON; exit code 1 if there is
a problem.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
from soak_traffic import Soak, SteppingClock, random_requests, tokens_alone, wrong_tokens

from enginebay.clock import MonotonicClock
from enginebay.engine.factory import assemble
from enginebay.engine.model_runner import ModelRunner
from enginebay.engine.request import EngineRequest
from enginebay.engine.settings import EngineConfig
from enginebay.loadtest.environment import describe_environment
from enginebay.models.sources import resolve_model

MAX_NUM_PROMPT_TOKENS, MAX_TOKENS = 128, 24
MAX_GROWTH_BYTES = 64 * 2**20
NUM_MEMORY_NOTES = 10
DEFAULT_OUT = Path(__file__).parent / "results" / "soak.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--quantization")
    parser.add_argument("--batch-invariant", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    arguments = parser.parse_args()
    result = soaked(arguments)
    text = json.dumps(result, indent=2)
    print(text)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(text + "\n", encoding="utf-8")
    return 1 if result["problems"] else 0


def soaked(arguments: argparse.Namespace) -> dict[str, object]:
    started_at = MonotonicClock().now()
    config, oracle_config = configs(arguments)
    clock = SteppingClock()
    runner = ModelRunner(config)
    soak = Soak(assemble(config, runner, clock), clock, seed=arguments.seed, max_num_in_flight=48)
    requests = progress_told(
        random_requests(
            arguments.requests,
            vocab_size=runner.model_config.vocab_size,
            max_num_prompt_tokens=MAX_NUM_PROMPT_TOKENS,
            max_tokens=MAX_TOKENS,
            seed=arguments.seed,
        ),
        arguments.requests,
    )
    report = soak.run(requests, note_memory_every=max(1, arguments.requests // NUM_MEMORY_NOTES))
    oracle = assemble(oracle_config, ModelRunner(oracle_config), SteppingClock())
    problems = [*report.problems, *wrong_tokens(report.checked, tokens_alone(oracle))]
    _, warm, *_, last = report.resident_bytes.values()
    if last - warm > MAX_GROWTH_BYTES:
        problems.append(f"memory grew by {last - warm:,} bytes between a fifth of the requests and all")
    return {
        "model": arguments.model,
        "settings": {name: value for name, value in msgspec.structs.asdict(config).items() if name != "model_dir"},
        "kernels": runner.kernels,
        "seed": arguments.seed,
        "num_requests": report.num_requests,
        "num_steps": report.num_steps,
        "num_output_tokens": report.num_output_tokens,
        "num_preemptions": report.num_preemptions,
        "num_ends_by_reason": dict(sorted(report.num_ends_by_reason.items())),
        "num_compared_alone": len(report.checked),
        "resident_bytes_by_num_ended": report.resident_bytes,
        "duration_s": round(MonotonicClock().now() - started_at, 1),
        "environment": msgspec.to_builtins(describe_environment()),
        "problems": problems,
    }


def configs(arguments: argparse.Namespace) -> tuple[EngineConfig, EngineConfig]:
    """Of the engine under load, and of the one that computes requests alone."""
    computed = {
        "model_dir": str(resolve_model(arguments.model)),
        "dtype": arguments.dtype,
        "quantization": arguments.quantization,
        "batch_invariant": arguments.batch_invariant,
        "max_model_len": 256,
    }
    loaded = EngineConfig(
        **computed,
        policy="dynamic",
        max_num_seqs=16,
        max_num_batched_tokens=256,
        num_blocks=64,
        speculative_ngram=4,
    )
    if not arguments.batch_invariant:
        computed |= {"dtype": "float32", "kernels": "plain", "quantization": None}
    return loaded, EngineConfig(**computed, policy="naive", enable_prefix_caching=False, num_blocks=32)


def progress_told(requests: Iterator[EngineRequest], num_requests: int) -> Iterator[EngineRequest]:
    for index, request in enumerate(requests):
        if index % max(1, num_requests // NUM_MEMORY_NOTES) == 0:
            print(f"{index} of {num_requests} requests", flush=True)
        yield request


if __name__ == "__main__":
    raise SystemExit(main())
