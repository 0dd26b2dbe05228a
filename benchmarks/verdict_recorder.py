"""Start the reference engine many times under a tiny load, and keep the figures of each start.

    python benchmarks/verdict_recorder.py [--starts 48] [--config configs/demo.yaml] [--backend continuous]

What an engine that is not changed measures from start to start is what a comparison has to rise above;
verdict_error_rates.py draws comparisons of the engine with itself from it. An interrupted recording is gone on with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from bench_runs import Memory, uniform_plan

from enginebay.cli.event_loop import new_event_loop
from enginebay.clock import MonotonicClock
from enginebay.config.loader import load_config
from enginebay.config.overriding import overridden
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.kept import Kept, read_kept
from enginebay.loadtest.measurement import BenchSettings
from enginebay.loadtest.result import Run
from enginebay.loadtest.session import Bench
from enginebay.loadtest.subjects import subject_of
from enginebay.verdict.comparison.figures import FIGURES

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "benchmarks" / "results" / "verdict_starts.json"
USERS = (1, 4)
TINY = {
    "num_requests": 12,
    "input_tokens": {"min": 8, "max": 32},
    "output_tokens": {"min": 8, "max": 16},
    "warmup_requests": 2,
}


def main() -> None:
    arguments = _arguments()
    config = load_config(arguments.config)
    tiny = overridden(config.bench, TINY, path="bench")
    plan = uniform_plan(config.model_copy(update={"bench": tiny}), arguments.backend, users=USERS)
    environment = describe_environment()
    kept = read_kept(arguments.work, plan) if (arguments.work / "result.json").exists() else Kept()
    bench = Bench(
        plan,
        [subject_of(config, arguments.config, arguments.backend, clock=MonotonicClock())],
        out=arguments.work,
        clock=MonotonicClock(),
        watcher=Memory(),
        environment=environment,
        settings=BenchSettings(num_starts=arguments.starts),
        kept=kept,
        on_estimate=lambda estimate: print(f"{estimate.remaining_s / 60:.1f} minutes left", flush=True),
    )
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        result = runner.run(bench.run())
    recorded = {
        "recorded_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": msgspec.to_builtins(environment),
        "backend": arguments.backend,
        "workload": plan.workload,
        "loads": [str(planned.load) for planned in plan.loads],
        "metrics": [figure.metric for figure in FIGURES],
        "starts": [_start(result.runs, number) for number in sorted({run.start_index for run in result.runs})],
    }
    arguments.out.write_text(json.dumps(recorded, indent=1) + "\n")
    print(f"{len(recorded['starts'])} starts -> {arguments.out}")


def _start(runs: list[Run], number: int) -> list[list[float | None]]:
    """For each load, each figure: a percentile of few requests too, as long as it is there."""
    return [[_value(run, figure.metric) for figure in FIGURES] for run in runs if run.start_index == number]


def _value(run: Run, metric: str) -> float | None:
    field, _, percentile = metric.partition(".")
    found = getattr(run.metrics, field)
    return getattr(found, percentile) if percentile and found is not None else found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=48)
    parser.add_argument("--config", type=Path, default=ROOT / "configs" / "demo.yaml")
    parser.add_argument("--backend", default="continuous")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "enginebay-verdict-starts")
    parser.add_argument("--out", type=Path, default=OUT)
    return parser.parse_args()


if __name__ == "__main__":
    main()
