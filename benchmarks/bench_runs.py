"""Load tests out of Python: the machinery of `enginebay bench`, with plans of any making and the memory that was held.

One subject at a time is started, warmed up, put under each load and stopped; where there are several starts, all
subjects have their first before one has its second.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from enginebay.cli.event_loop import new_event_loop
from enginebay.clock import MonotonicClock
from enginebay.config.loader import load_config
from enginebay.config.models import Config
from enginebay.config.overriding import overridden
from enginebay.config.resolution import resolve_backend
from enginebay.configured import check_backend
from enginebay.errors import EngineBayError
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.from_config import all_ignore_eos, plan_from_config
from enginebay.loadtest.measurement import BenchSettings
from enginebay.loadtest.plan import Load, Plan
from enginebay.loadtest.records import Record, RunKey
from enginebay.loadtest.result import Result, Run, load_result
from enginebay.loadtest.session import Bench
from enginebay.loadtest.subjects import subject_of
from enginebay.loadtest.tokenizer import FileTokenizer
from enginebay.models.sources import resolve_model
from enginebay.plugins import DEFAULT_MODEL, MODEL_VARIABLE

Row = dict[str, Any]


@dataclass
class Memory:
    """Watches a load test: what the engine's process holds, and what the prefix cache gave."""

    resident_bytes: dict[RunKey, int] = field(default_factory=dict[RunKey, int])
    num_positions: dict[RunKey, int] = field(default_factory=lambda: defaultdict(int))
    """Prompt and output tokens of all answers."""
    num_cached: dict[RunKey, int] = field(default_factory=lambda: defaultdict(int))

    def phase(self, label: str, what: str) -> None:
        print(f"  {label}: {what}", flush=True)

    def run_begins(self, run: RunKey, num_requests: int) -> None:
        print(f"  {run.label}: {num_requests} requests, {run.load}", flush=True)

    def record(self, run: RunKey, record: Record) -> None:
        self.num_positions[run] += (record.num_prompt_tokens or 0) + (record.num_output_tokens or 0)
        self.num_cached[run] += record.num_cached_tokens or 0

    def run_ends(self, run: Run) -> None:
        self.resident_bytes[run.key] = largest_child_bytes()


def largest_child_bytes() -> int:
    """Resident bytes of the largest process below ours: the engine's, beside a server that holds no weights."""
    return resident_bytes(largest_child())


def largest_child(beside: Collection[int] = ()) -> int | None:
    """Id of the largest process below ours that is not among `beside`."""
    others = [child.pid for child in psutil.Process().children(recursive=True) if child.pid not in beside]
    return max(others, key=resident_bytes, default=None)


def resident_bytes(pid: int | None) -> int:
    """0 of a process that has ended."""
    try:
        return 0 if pid is None else psutil.Process(pid).memory_info().rss
    except psutil.NoSuchProcess:
        return 0


def measure(
    config_path: Path,
    names: Sequence[str],
    plan: Plan,
    *,
    out: Path,
    num_starts: int,
    tokenizer: FileTokenizer | None = None,
) -> tuple[Result, Memory]:
    """A subject that fails is told of in the result, and the others are measured all the same."""
    config = load_config(config_path)
    clock, memory = MonotonicClock(), Memory()
    bench = Bench(
        plan,
        [subject_of(config, config_path, name, clock=clock) for name in names],
        out=out,
        clock=clock,
        watcher=memory,
        environment=describe_environment(),
        settings=BenchSettings(num_starts=num_starts, request_timeout_s=config.bench.request_timeout_s),
        tokenizer=tokenizer,
    )
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(bench.run())
    except EngineBayError as error:
        if not bench.is_saved:
            raise
        print(f"  {error}", flush=True)
    return load_result(out), memory


def tokenizer_of(config: Config, name: str) -> FileTokenizer:
    model = resolve_backend(config, name).model or os.environ.get(MODEL_VARIABLE) or DEFAULT_MODEL
    return FileTokenizer(resolve_model(model))


def uniform_plan(config: Config, name: str, *, num_requests: int | None = None, users: Sequence[int] = ()) -> Plan:
    """The load that the config's `bench:` section describes, or a smaller one; made as `enginebay bench` makes it."""
    changes = {"users": tuple(users), "rate_rps": None} if users else {}
    changes |= {"num_requests": num_requests} if num_requests else {}
    return plan_from_config(
        overridden(config.bench, changes, path="bench"),
        model=resolve_backend(config, name).model or DEFAULT_MODEL,
        tokenizer=tokenizer_of(config, name),
        ignore_eos=all_ignore_eos([check_backend(config, name)]),
    )


def revision() -> str | None:
    """The commit that is measured, `-dirty` where files differ from it; None outside of a checkout."""
    command = ("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


# ---------------------------------------------------------------- figures


def rows_of(result: Result, memory: Memory) -> list[Row]:
    """One for each subject and load: medians over its starts, in the order in which they were first run."""
    by_case: dict[tuple[str, Load], list[Run]] = defaultdict(list)
    for run in result.runs:
        by_case[run.label, run.load].append(run)
    return [_row(runs, memory) for runs in by_case.values()]


def _row(runs: Sequence[Run], memory: Memory) -> Row:
    settings = runs[0].effective_settings
    speeds = [run.metrics.output_tokens_per_s for run in runs]
    return {
        "label": runs[0].label,
        "kind": runs[0].backend,
        "engine_version": runs[0].engine_version,
        "users": runs[0].load.users,
        "num_starts": len(runs),
        "output_tokens_per_s": spread(speeds),
        "tokens_per_s_by_start": [round(speed, 3) for speed in speeds],
        "ttft_p50_s": _median(runs, "ttft_s", "p50"),
        "ttft_p99_s": _median(runs, "ttft_s", "p99"),
        "tpot_p50_s": _median(runs, "tpot_s", "p50"),
        "padding_ratio": _policy_median(runs, "padding_ratio"),
        "idle_slot_ratio": _policy_median(runs, "idle_slot_ratio"),
        "mean_batch_size": _policy_median(runs, "mean_batch_size"),
        "cached_ratio": statistics.median(
            memory.num_cached[run.key] / max(1, memory.num_positions[run.key]) for run in runs
        ),
        "resident_bytes": int(statistics.median(memory.resident_bytes[run.key] for run in runs)),
        "weight_bytes": settings.get("weight_bytes"),
        "kv_cache_bytes": settings.get("kv_cache_allocated_bytes"),
        "configured_settings": runs[0].configured_settings,
        "effective_settings": settings,
        "simulated": any(run.simulated for run in runs),
        "is_valid": all(run.valid for run in runs),
        "invalid_reasons": sorted(
            {f"{reason.code}: {reason.detail}" for run in runs for reason in run.invalid_reasons}
        ),
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def _median(runs: Sequence[Run], name: str, percentile: str) -> float | None:
    values = [getattr(found, percentile) for run in runs if (found := getattr(run.metrics, name)) is not None]
    return statistics.median(values) if values else None


def _policy_median(runs: Sequence[Run], name: str) -> float | None:
    values = [found for run in runs if (found := getattr(run.metrics, name)) is not None]
    return statistics.median(values) if values else None
