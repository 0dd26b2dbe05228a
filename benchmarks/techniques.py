"""Every technique off and on, each under a load that fits it: one run, one result, one table.

    python benchmarks/techniques.py [--quick] [--groups NAME ...] [--starts 3] [--price-per-hour 0.10]
    python benchmarks/techniques_page.py     # writes the page and its plot out of the result

A group is one config under configs/techniques/ and one plan. Its engines are started one after the other, in every
round anew, so that what the machine does meanwhile happens to all of them; medians over the rounds are kept. About 20
minutes on two cores. Speculation is measured by benchmarks/speculation.py, in the same run.

Groups that are not named stay in the result as they were, each with the time, commit and environment of its own run; a
smoke test is never written over measurements. Whatever comes out is kept. Exit code 0 if every bar of this project that
belongs to the groups is met, 1 if one is missed (it is named at the end; a claim of the lesson that does not hold here
is no bar), 2 for wrong usage, 3 if something that was asked for gave no figure. A smoke test is held to no bar.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import speculation
from bench_runs import measure, revision, rows_of, tokenizer_of, uniform_plan
from technique_plans import shared_prefix_plan
from technique_result import bar_line, bars_of, exit_status, in_order, kept_groups

from enginebay.cli.event_loop import new_event_loop
from enginebay.config.loader import load_config
from enginebay.config.models import Config
from enginebay.errors import EngineBayError, LoadTestError
from enginebay.loadtest.environment import describe_environment
from enginebay.loadtest.plan import Plan

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs" / "techniques"
DEFAULT_OUT = ROOT / "benchmarks" / "results" / "techniques.json"
DEFAULT_PRICE_PER_HOUR = 0.10
"""Assumed: what a virtual machine of two cores costs in an hour, in the currency of your choice."""

MakePlan = Callable[[Config, str, bool], Plan]
"""config, name of its first backend, and whether a smoke test is enough."""


@dataclass(frozen=True, slots=True)
class Group:
    config: str
    make_plan: MakePlan

    @property
    def path(self) -> Path:
        return CONFIGS / f"{self.config}.yaml"


def fitted(config: Config, name: str, is_quick: bool) -> Plan:
    """The config's own load; for a smoke test as many requests as it has users, at most 8."""
    if not is_quick:
        return uniform_plan(config, name)
    users = [min(8, number) for number in config.bench.users or (1,)][:1]
    return uniform_plan(config, name, num_requests=users[0], users=users)


def shared_prefix(config: Config, name: str, is_quick: bool) -> Plan:
    return shared_prefix_plan(
        tokenizer_of(config, name),
        model=config.model or "",
        users=(config.bench.users or (1,))[0],
        num_requests=8 if is_quick else config.bench.num_requests,
        num_prefix_tokens=128 if is_quick else 1024,
    )


GROUPS = {
    "policies": Group("policies", fitted),
    "prefix_cache": Group("prefix-cache", shared_prefix),
    "prefix_cache_miss": Group("prefix-cache", fitted),
    "precision": Group("precision", fitted),
    "batch_size": Group("batch-size", fitted),
    "batch_invariant": Group("batch-invariant", fitted),
}
SPECULATION = "speculation"


def main() -> int:
    arguments = parsed()
    known, names = [*GROUPS, SPECULATION], list(dict.fromkeys(arguments.groups))
    try:
        groups = kept_groups(arguments.out, known=known, measured_anew=names, is_quick=arguments.quick)
    except LoadTestError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    stamp = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "revision": revision(),
        "environment": msgspec.to_builtins(describe_environment()),
    }
    groups = {name: priced(group, arguments.price_per_hour) for name, group in groups.items()}
    for name in names:
        print(f"== {name}", flush=True)
        groups[name] = stamp | priced(found_of(name, arguments), arguments.price_per_hour)
        result = stamp | {
            "is_quick": arguments.quick,
            "price_per_hour": arguments.price_per_hour,
            "groups": in_order(groups, known),
        }
        write(arguments.out, result)  # what was measured is kept if a later group does not come to its end
    if not arguments.quick:
        print("\n".join(bar_line(bar, groups) for bar in bars_of(names)))
    return exit_status(groups, names, is_quick=arguments.quick)


def found_of(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    if name == SPECULATION:
        return speculated(arguments.quick)
    return measured(GROUPS[name], 1 if arguments.quick else arguments.starts, arguments)


def parsed() -> argparse.Namespace:
    names = [*GROUPS, SPECULATION]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--quick", action="store_true", help="a few requests each: a smoke test, not a figure")
    parser.add_argument("--starts", type=int, default=3, help="rounds; each starts every engine of a group anew")
    parser.add_argument("--price-per-hour", type=float, default=DEFAULT_PRICE_PER_HOUR, help="of this machine")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT)
    return parser.parse_args()


def measured(group: Group, num_starts: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """A group whose config asks for what this version cannot do has a failure and no rows."""
    try:
        config = load_config(group.path)
        names = list(config.backends)
        plan = group.make_plan(config, names[0], arguments.quick)
        with tempfile.TemporaryDirectory() as folder:
            result, memory = measure(group.path, names, plan, out=Path(folder), num_starts=num_starts)
    except EngineBayError as error:
        print(f"  {error}", flush=True)
        return {"rows": [], "failures": [{"label": None, "error": f"{type(error).__name__}: {error}"}]}
    return {
        "config": str(group.path.relative_to(ROOT)),
        "workload": plan.workload,
        "plan_sha256": plan.sha256,
        "rows": rows_of(result, memory),
        "failures": [{"label": f.label, "error": f"{f.error_class}: {f.message}"} for f in result.failures],
    }


def speculated(is_quick: bool) -> dict[str, Any]:
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            found = runner.run(speculation.measured(None, is_quick=is_quick))
    except EngineBayError as error:
        print(f"  {error}", flush=True)
        return {"rows": [], "failures": [{"label": None, "error": f"{type(error).__name__}: {error}"}]}
    return {
        "config": str(speculation.CONFIG.relative_to(ROOT)),
        "workload": "prompts whose answer is copied from them, and prompts whose answer is not, one at a time",
        "rows": found["rows"],
        "bars": found["bars"],
        "failures": found["failures"],
    }


def priced(group: dict[str, Any], price_per_hour: float) -> dict[str, Any]:
    rows: Sequence[dict[str, Any]] = group["rows"]
    for row in rows:
        speed = row["output_tokens_per_s"]["median"] if row["output_tokens_per_s"] else 0
        row["price_per_million_tokens"] = price_per_hour / 3600 / speed * 1e6 if speed else None
    return group


def write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
