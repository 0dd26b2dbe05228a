"""What int8 costs in quality: perplexity and agreement with bfloat16, and bfloat16 against float32 as the yardstick.

    python benchmarks/quantization_quality.py [--windows 40] [--out FILE]

The text is the language reference that every CPython carries for `help()` (`pydoc_data.topics`), in windows of 512
tokens. Every form of the model reads every window, and at each position its distribution is compared with that of
bfloat16: the same best token or not, and the divergence. Then each form continues fifty prompts greedily by 64 tokens.
Writes JSON and prints tables in Markdown.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import msgspec
import torch
from greedy_agreement import PROMPTS
from tokenizers import Tokenizer
from torch import Tensor

from enginebay.clock import MonotonicClock
from enginebay.engine.factory import build_engine
from enginebay.engine.model_runner import ModelRunner
from enginebay.engine.plan import ScheduledSequence, StepPlan
from enginebay.engine.request import EngineRequest
from enginebay.engine.sequence import Sequence as EngineSequence
from enginebay.engine.settings import EngineConfig
from enginebay.loadtest.environment import describe_environment
from enginebay.models.sources import resolve_model

WINDOW = 512
NUM_GREEDY_TOKENS = 64
BLOCK_SIZE = 16
DEFAULT_OUT = Path(__file__).parent / "results" / "quantization_quality.json"
YARDSTICK, BASELINE = "float32", "bfloat16"
FORMS: Mapping[str, Mapping[str, Any]] = {
    YARDSTICK: {"dtype": "float32"},
    BASELINE: {"dtype": "bfloat16"},
    "int8": {"dtype": "bfloat16", "quantization": "int8"},
    "int8, not smoothed": {"dtype": "bfloat16", "quantization": "int8", "smooth_int8": False},
    "int8_weight_only": {"dtype": "bfloat16", "quantization": "int8_weight_only"},
    "bfloat16, int8 KV cache": {"dtype": "bfloat16", "kv_cache_dtype": "int8"},
    "int8, int8 KV cache": {"dtype": "bfloat16", "quantization": "int8", "kv_cache_dtype": "int8"},
}
PAIRS = ((YARDSTICK, BASELINE), *((BASELINE, form) for form in list(FORMS)[2:]))


@dataclass(slots=True)
class Comparison:
    """Of one form with another, over all positions of all windows."""

    log_ratios: list[float] = field(default_factory=list)
    """For each window: by how much the mean negative log-likelihood is worse."""
    num_equal_best: int = 0
    num_positions: int = 0
    divergence: float = 0.0
    """Sum over positions of KL(first || second), in nats."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    arguments = parser.parse_args()
    directory = resolve_model(arguments.model)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    text = "\n\n".join(topics.values())
    windows = windows_of(tokenizer.encode(text).ids, num_windows=arguments.windows)
    runners = {name: ModelRunner(config(directory, form)) for name, form in FORMS.items()}
    losses, comparisons = read_all(runners, windows)
    answers: dict[str, Sequence[Sequence[int]]] = {}
    for name, form in FORMS.items():
        print(f"{name} answers ...", flush=True)
        answers[name] = greedy_answers(config(directory, form), tokenizer)
    result = {
        "model": arguments.model,
        "text": {
            "source": "pydoc_data.topics of this Python",
            "sha256": sha256(text.encode()).hexdigest(),
            "num_windows": len(windows),
            "window_tokens": WINDOW,
        },
        "environment": msgspec.to_builtins(describe_environment()),
        "forms": [form_result(name, runners[name], losses[name]) for name in FORMS],
        "pairs": [pair_result(pair, comparisons[pair], answers) for pair in PAIRS],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(table(result["forms"]), table(result["pairs"]), sep="\n\n")
    return 0


def config(directory: Path, form: Mapping[str, Any]) -> EngineConfig:
    return EngineConfig(
        model_dir=str(directory), max_model_len=2 * WINDOW, block_size=BLOCK_SIZE, num_blocks=256, **form
    )


# ---------------------------------------------------------------- reading


def windows_of(token_ids: Sequence[int], *, num_windows: int) -> list[list[int]]:
    windows = [list(token_ids[start : start + WINDOW]) for start in range(0, num_windows * WINDOW, WINDOW)]
    assert all(len(window) == WINDOW for window in windows), "the text is too short"
    return windows


def read_all(
    runners: Mapping[str, ModelRunner], windows: Sequence[list[int]]
) -> tuple[dict[str, list[float]], dict[tuple[str, str], Comparison]]:
    """Mean negative log-likelihood of each window by form, and what the pairs differ in."""
    losses: dict[str, list[float]] = {name: [] for name in runners}
    comparisons = {pair: Comparison() for pair in PAIRS}
    for index, window in enumerate(windows):
        print(f"window {index + 1} of {len(windows)}", end="\r", flush=True)
        logprobs = {name: window_logprobs(runner, window) for name, runner in runners.items()}
        targets = torch.tensor(window[1:])[:, None]
        for name, rows in logprobs.items():
            losses[name].append(-float(rows.gather(1, targets).double().mean()))
        for (first, second), comparison in comparisons.items():
            compare(comparison, logprobs[first], logprobs[second])
            comparison.log_ratios.append(losses[second][-1] - losses[first][-1])
    return losses, comparisons


def window_logprobs(runner: ModelRunner, window: list[int]) -> Tensor:
    """(len(window) - 1, vocab_size): of each token but the first, given those before it."""
    request = EngineRequest(request_id="window", prompt_token_ids=window, max_tokens=1, seed=0, num_prompt_logprobs=0)
    sequence = EngineSequence(request, arrived_at=0.0)
    sequence.block_table = list(range(1, len(window) // BLOCK_SIZE + 2))
    item = ScheduledSequence(sequence, 0, len(window), samples=True)
    return runner.forward(StepPlan([item])).prompt[0][:][:-1].log_softmax(dim=-1)


def compare(comparison: Comparison, first: Tensor, second: Tensor) -> None:
    comparison.num_positions += len(first)
    comparison.num_equal_best += int((first.argmax(dim=-1) == second.argmax(dim=-1)).sum())
    comparison.divergence += float((first.exp() * (first - second)).double().sum())


# ---------------------------------------------------------------- writing


def greedy_answers(settings: EngineConfig, tokenizer: Tokenizer) -> list[list[int]]:
    engine = build_engine(settings, MonotonicClock())
    answers: dict[str, list[int]] = {str(index): [] for index in range(len(PROMPTS))}
    for index, prompt in enumerate(PROMPTS):
        engine.add(
            EngineRequest(
                request_id=str(index),
                prompt_token_ids=tokenizer.encode(prompt).ids,
                max_tokens=NUM_GREEDY_TOKENS,
                temperature=0.0,
                ignore_eos=True,
                seed=0,
            )
        )
    while engine.has_work:
        for output in engine.step():
            assert output.error is None, output.error
            answers[output.request_id] += output.token_ids
    return list(answers.values())


def num_shared_tokens(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = zip(one, other, strict=True)
    return next((position for position, (left, right) in enumerate(pairs) if left != right), len(one))


# ---------------------------------------------------------------- result


def form_result(name: str, runner: ModelRunner, losses: Sequence[float]) -> dict[str, object]:
    return {
        "form": name,
        "kernels": runner.kernels,
        "weight_bytes": runner.memory_use.weight_bytes,
        "weight_layouts": runner.memory_use.layouts,
        "perplexity": round(math.exp(statistics.mean(losses)), 4),
    }


def pair_result(
    pair: tuple[str, str], comparison: Comparison, answers: Mapping[str, Sequence[Sequence[int]]]
) -> dict[str, object]:
    """The interval is that of the mean over windows: 1.96 standard errors to either side."""
    mean = statistics.mean(comparison.log_ratios)
    error = 1.96 * statistics.stdev(comparison.log_ratios) / math.sqrt(len(comparison.log_ratios))
    shared = [num_shared_tokens(*both) for both in zip(answers[pair[0]], answers[pair[1]], strict=True)]
    return {
        "first": pair[0],
        "second": pair[1],
        "perplexity_ratio": round(math.exp(mean), 5),
        "perplexity_ratio_low": round(math.exp(mean - error), 5),
        "perplexity_ratio_high": round(math.exp(mean + error), 5),
        "equal_best_token_ratio": round(comparison.num_equal_best / comparison.num_positions, 5),
        "mean_divergence_nats": round(comparison.divergence / comparison.num_positions, 6),
        "num_positions": comparison.num_positions,
        "greedy_tokens_before_parting_ratio": round(sum(shared) / (NUM_GREEDY_TOKENS * len(shared)), 4),
        "greedy_answers_that_part": sum(count < NUM_GREEDY_TOKENS for count in shared),
        "num_greedy_answers": len(shared),
    }


def table(rows: Sequence[Mapping[str, object]]) -> str:
    names = [name for name in rows[0] if name != "weight_layouts"]
    lines = [f"| {' | '.join(names)} |", f"|{'---|' * len(names)}"]
    return "\n".join([*lines, *(f"| {' | '.join(str(row[name]) for name in names)} |" for row in rows)])


if __name__ == "__main__":
    raise SystemExit(main())
