"""Speculation at one user: prompts whose answer is copied from them, and prompts whose answer is not.

    python benchmarks/speculation.py [--quick] [--out benchmarks/results/speculation.json]

All contenders of configs/techniques/speculation.yaml are started at once and asked over HTTP, one at a time: each
prompt goes to all of them in turn, first one and then another first, so that a slow minute is everybody's. Compared are
the medians of the pairs (the same prompt with and without speculation). Greedy; an answer to a copy prompt ends where
the model ends it. Answers that loop (a run of 12 tokens occurs twice) are told and left out: drafting a loop is easy.
Exit code 1 if a bar is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
from bench_runs import largest_child, resident_bytes, revision, spread, tokenizer_of
from technique_claims import MIN_PAIRS
from technique_plans import prompts_of

from enginebay import quantities
from enginebay.backend import Backend
from enginebay.cli.event_loop import new_event_loop
from enginebay.clock import MonotonicClock
from enginebay.config.loader import load_config
from enginebay.errors import EngineBayError, LoadTestError
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.metrics import e2e_s, output_tokens, tpot_s, ttft_s
from enginebay.loadtest.plan import Load, PlannedRequest
from enginebay.loadtest.records import Record
from enginebay.loadtest.runner import Runner
from enginebay.loadtest.subjects import subject_of
from enginebay.loadtest.tokenizer import TextTokenizer
from enginebay.types import EngineStats, SamplingParams

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "techniques" / "speculation.yaml"
DEFAULT_OUT = ROOT / "benchmarks" / "results" / "speculation.json"
BASE = "no-speculation"
LOOP_RUN = 12
COPIED_RUN = 4
SAMPLING = {
    "copy": SamplingParams(max_tokens=160, temperature=0.0),
    "free": SamplingParams(max_tokens=64, temperature=0.0, ignore_eos=True),
}
BARS = {("ngram", "copy"): 1.5, ("ngram", "free"): 0.95}
"""Least ratio of output tokens per second to those without speculation."""
NUM_QUICK_PROMPTS = 2


@dataclass
class Contender:
    label: str
    backend: Backend
    pid: int | None
    """Of its engine's process."""
    answers: dict[str, dict[str, Record]] = field(default_factory=dict[str, dict[str, Record]])
    """By kind of prompts and name of the prompt."""
    drafts: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """By kind of prompts: drafted and accepted tokens."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two prompts of each kind: a smoke test, not a figure")
    parser.add_argument("--contenders", nargs="*", help="entries of the config beside the one without speculation")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        result = runner.run(measured(arguments.contenders, is_quick=arguments.quick))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for row in result["rows"]:
        print(
            f"{row['label']:16} {row['prompts']:5} {shown(row['output_tokens_per_s'])} tokens/s, {shown(row['ratio'])}x"
        )
    return 0 if all(bar["is_met"] for bar in result["bars"]) else 1


def shown(values: dict[str, float] | None) -> str:
    return "-" if values is None else f"{values['median']:.2f}"


async def measured(labels: Sequence[str] | None, *, is_quick: bool) -> dict[str, Any]:
    config = load_config(CONFIG)
    tokenizer = tokenizer_of(config, BASE)
    wanted = labels or [label for label in config.backends if label != BASE]
    async with AsyncExitStack() as stack:
        contenders, failures = await started([BASE, *wanted], stack)
        rows = [
            row
            for kind, sampling in SAMPLING.items()
            for row in await rows_of(kind, sampling, contenders, tokenizer=tokenizer, is_quick=is_quick)
        ]
    return {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "is_quick": is_quick,
        "revision": revision(),
        "environment": msgspec.to_builtins(describe_environment()),
        "rows": rows,
        "failures": failures,
        "bars": [bar_of(row) for row in rows if (row["label"], row["prompts"]) in BARS],
    }


async def started(labels: Sequence[str], stack: AsyncExitStack) -> tuple[list[Contender], list[dict[str, str]]]:
    """One that does not start is told of; the one without speculation must."""
    config, clock = load_config(CONFIG), MonotonicClock()
    contenders: list[Contender] = []
    failures: list[dict[str, str]] = []
    for label in labels:
        known = {process.pid for process in psutil.Process().children(recursive=True)}
        print(f"  {label}: starting", flush=True)
        try:
            backend = await stack.enter_async_context(subject_of(config, CONFIG, label, clock=clock).open())
        except EngineBayError as error:
            if label == BASE:
                raise
            failures.append({"label": label, "error": f"{type(error).__name__}: {error}"})
            continue
        contenders.append(Contender(label, backend, largest_child(known)))
    return contenders, failures


async def rows_of(
    kind: str, sampling: SamplingParams, contenders: list[Contender], *, tokenizer: TextTokenizer, is_quick: bool
) -> list[dict[str, Any]]:
    asked = prompts_of(kind, tokenizer, sampling)
    if is_quick:
        asked = dict(list(asked.items())[:NUM_QUICK_PROMPTS])
    before = [await contender.backend.stats() for contender in contenders]
    for round_number, (name, planned) in enumerate(asked.items()):
        print(f"  {kind}: {name}, {round_number + 1} of {len(asked)}", flush=True)
        first = round_number % len(contenders)
        for contender in (*contenders[first:], *contenders[:first]):
            contender.answers.setdefault(kind, {})[name] = await answer(contender, planned)
    for contender, stats in zip(contenders, before, strict=True):
        contender.drafts[kind] = drafts_between(stats, await contender.backend.stats())
    return [row_of(kind, contender, asked, base=contenders[0], tokenizer=tokenizer) for contender in contenders]


async def answer(contender: Contender, planned: PlannedRequest) -> Record:
    records: list[Record] = []
    runner = Runner(contender.backend, clock=MonotonicClock(), on_record=records.append, request_timeout_s=120.0)
    await runner.run((planned,), Load(users=1))
    (record,) = records
    if record.error_class is not None:
        raise LoadTestError(f"{contender.label}: {record.error_class}: {record.error_message}")
    return record


def drafts_between(before: EngineStats, after: EngineStats) -> dict[str, float]:
    """Zeros where the engine counts none."""

    def difference(quantity: quantities.Quantity) -> float:
        name = quantity.prometheus_name
        return after.extra.get(name, 0.0) - before.extra.get(name, 0.0)

    return {
        "num_steps": difference(quantities.ENGINE_STEPS),
        "num_drafted": difference(quantities.ENGINE_DRAFTED_TOKENS),
        "num_accepted": difference(quantities.ENGINE_ACCEPTED_TOKENS),
        "draft_s": difference(quantities.ENGINE_DRAFT_SECONDS),
    }


def row_of(
    kind: str, contender: Contender, asked: dict[str, PlannedRequest], *, base: Contender, tokenizer: TextTokenizer
) -> dict[str, Any]:
    """Over the prompts whose answer without speculation does not loop."""
    mine, theirs = contender.answers[kind], base.answers[kind]
    token_ids = {name: tokenizer.encode_plain(record.text) for name, record in theirs.items()}
    looping = [name for name in asked if loops(token_ids[name])]
    used = [name for name in asked if name not in looping]
    ratios = [rate(mine[name]) / rate(theirs[name]) for name in used]
    drafts = contender.drafts[kind]
    return {
        "label": contender.label,
        "prompts": kind,
        "users": 1,
        "num_pairs": len(used),
        "looping_prompts": looping,
        "differing_prompts": [name for name in asked if mine[name].text != theirs[name].text],
        "copied_ratio": median(
            [copied_ratio(tokenizer.encode_plain(asked[name].text or ""), token_ids[name]) for name in used]
        ),
        "ratio": spread(ratios) if ratios else None,
        "output_tokens_per_s": spread([rate(mine[name]) for name in used]) if used else None,
        "ttft_p50_s": median([ttft_s(mine[name]) for name in used]),
        "tpot_p50_s": median([tpot_s(mine[name]) for name in used]),
        **drafts,
        "tokens_per_step": sum(output_tokens(record) for record in mine.values()) / max(1, drafts["num_steps"]),
        "acceptance_ratio": drafts["num_accepted"] / drafts["num_drafted"] if drafts["num_drafted"] else None,
        "resident_bytes": resident_bytes(contender.pid),
        "effective_settings": dict(contender.backend.info.effective_settings),
    }


def loops(token_ids: Sequence[int]) -> bool:
    runs = [tuple(token_ids[start : start + LOOP_RUN]) for start in range(len(token_ids) - LOOP_RUN + 1)]
    return len(set(runs)) < len(runs)


def copied_ratio(prompt: Sequence[int], output: Sequence[int]) -> float:
    """Share of the runs of 4 tokens of the output that stand in the prompt."""
    known = {tuple(prompt[start : start + COPIED_RUN]) for start in range(len(prompt) - COPIED_RUN + 1)}
    runs = [tuple(output[start : start + COPIED_RUN]) for start in range(len(output) - COPIED_RUN + 1)]
    return sum(run in known for run in runs) / len(runs) if runs else 0.0


def rate(record: Record) -> float:
    """Output tokens a second of one answer, its prompt counted."""
    duration_s = e2e_s(record)
    assert duration_s, "an answer without a token has no rate"
    return output_tokens(record) / duration_s


def median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def bar_of(row: dict[str, Any]) -> dict[str, Any]:
    """Met by the median of enough pairs, with every answer identical."""
    least = BARS[row["label"], row["prompts"]]
    ratio = row["ratio"]["median"] if row["ratio"] else 0.0
    is_met = ratio >= least and row["num_pairs"] >= MIN_PAIRS and not row["differing_prompts"]
    return {
        "what": f"{row['label']} on {row['prompts']} prompts, 1 user, against no speculation",
        "ratio": ratio,
        "least_ratio": least,
        "num_pairs": row["num_pairs"],
        "is_identical": not row["differing_prompts"],
        "is_met": is_met,
    }


if __name__ == "__main__":
    raise SystemExit(main())
