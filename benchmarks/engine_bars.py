"""The reference engine, vLLM and OpenVINO GenAI over HTTP, in 16 bits and in int8, one engine at a time.

    python benchmarks/engine_bars.py [--repeats 3] [--engines LABEL ...] [--users N ...] [--requests N]
    python benchmarks/engine_bars_page.py     # writes the section of docs/comparison.md out of the result

Configuration and load are those of configs/engine-bars.yaml. An engine is started, warmed, measured at every number of
users and stopped; when all have had their turn, the next round begins. Ratios are of medians over the rounds; the
ratios of each round are kept beside them. Exit code 1 if a bar is missed or an engine failed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from bench_runs import measure, revision, rows_of, uniform_plan
from engine_bars_page import KEPT, judged

from enginebay.config.loader import load_config
from enginebay.config.models import Config
from enginebay.loadtest.environment import describe_environment
from enginebay.models.sources import resolve_model
from enginebay.plugins import find_backend

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "configs" / "engine-bars.yaml"
CHECKPOINT_VARIABLE = "SMOLLM2_W8A8"
W8A8_LABEL = "vllm-int8"
MODEL = "smollm2-135m"


def main() -> int:
    arguments = parsed(load_config(CONFIG))
    if W8A8_LABEL in arguments.engines:
        os.environ[CHECKPOINT_VARIABLE] = str(checkpoint(arguments.w8a8))
    os.chdir(ROOT)  # the config names virtual environments by their place here
    config = load_config(CONFIG)
    plan = uniform_plan(config, config.backend, num_requests=arguments.requests, users=arguments.users)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        result, memory = measure(CONFIG, arguments.engines, plan, out=Path(folder), num_starts=arguments.repeats)
    found = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "workload": plan.workload,
        "plan_sha256": plan.sha256,
        "num_repeats": arguments.repeats,
        "load_average_before": round(load_before, 2),
        "revision": revision(),
        "environment": msgspec.to_builtins(describe_environment()),
        "tuning": {label: tuning(config, label) for label in arguments.engines},
        "rows": rows_of(result, memory),
        "failures": [{"label": f.label, "error": f"{f.error_class}: {f.message}"} for f in result.failures],
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    bars = judged(found)
    for bar in bars:
        print(bar)
    return 0 if not found["failures"] and all(bar.is_met for bar in bars) else 1


def parsed(config: Config) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    labels = list(config.backends)
    parser.add_argument("--repeats", type=int, default=config.bench.starts, help="rounds of all engines")
    parser.add_argument("--engines", nargs="*", choices=labels, default=labels, metavar="LABEL", help=", ".join(labels))
    parser.add_argument("--users", type=int, nargs="*", default=[], help="else those of the config")
    parser.add_argument("--requests", type=int, help="of each run, else as many as the config says")
    parser.add_argument("--w8a8", type=Path, help="the model as W8A8, for vllm-int8; else it is converted")
    parser.add_argument("--out", type=Path, default=KEPT)
    return parser.parse_args()


def checkpoint(given: Path | None) -> Path:
    """The model as W8A8, checked: with another one the entry would quietly be the model in 16 bits."""
    directory = given or converted()
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    if "quantization_config" not in config:
        raise SystemExit(f"{directory} is no quantised checkpoint: name one with --w8a8, or leave out {W8A8_LABEL}")
    return directory.resolve()


def converted() -> Path:
    """As `enginebay models convert smollm2-135m --to vllm` does it; made once."""
    spec = find_backend("vllm")
    if spec.convert is None:
        raise SystemExit("the vllm plugin converts no models: name a W8A8 checkpoint with --w8a8")
    return spec.convert(resolve_model(MODEL), weight_format=None, venv=None, progress=lambda progress: None)


def tuning(config: Config, label: str) -> dict[str, Any]:
    """What was set for this engine beside the portable settings, which its rows have."""
    entry = config.backends[label]
    return {"kind": entry.kind, "environment": dict(entry.environment), "options": dict(entry.options)}


if __name__ == "__main__":
    raise SystemExit(main())
