"""What the gateway costs: wrk in front of it, an instant server behind it, and the same without it.

    python benchmarks/gateway.py [--seconds 6] [--rounds 3] [--litellm] [--out benchmarks/results/gateway.json]

Needs wrk, and two CPUs: the gateway has the first one to itself, wrk and the server behind have the others. Each load
is measured without the gateway (`direct`), with one model and nothing else (`plain`), with keys, limits, routing,
metrics and the ledger on (`full`), and through LiteLLM's proxy in the gateway's place (`litellm`) where that is
installed; `--litellm` installs it. They take turns in rounds, each started anew; figures are medians over the rounds.
Added latencies are differences of percentiles at one connection within a round. Fails where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from bars import Bar, as_json, exit_code
from gateway_stage import FULL, PLAIN, RESULTS, Target, cannot_measure, gateway, machine, server_behind
from litellm_proxy import install, installed_version, litellm_proxy
from wrk import run_wrk

FIELDS = {"model": "m", "prompt": "eight words make the prompt of this request", "max_tokens": 16}
BUSY, ALONE, STREAMED = "not_streamed_64_connections", "not_streamed_1_connection", "streamed_64_connections"
LOADS = {BUSY: (64, FIELDS), ALONE: (1, FIELDS), STREAMED: (64, {**FIELDS, "stream": True})}
MEASURED = ("requests_per_s", "latency_p50_s", "latency_p99_s")
WARM_UP_S = 1.0
SLOW_S, SLOW_WARM_UP_S = 10.0, 3.0
"""At least, of a peer whose first answers to 64 connections take seconds."""

Figures = Mapping[str, Any]
"""By load, those of wrk and of the gateway's process; and `idle_resident_bytes`."""


def measure(target: Target, seconds: float, *, warm_up_s: float = WARM_UP_S) -> dict[str, Any]:
    results: dict[str, Any] = {}
    if target.process is not None:
        results["idle_resident_bytes"] = target.resident_bytes
    for name, (num_connections, fields) in LOADS.items():
        run_wrk(target, fields, num_connections=num_connections, seconds=warm_up_s)
        cpu_s, waited_s, began_at = target.cpu_s, target.waited_s, time.monotonic()
        figures = run_wrk(target, fields, num_connections=num_connections, seconds=seconds)
        if target.process is not None:
            elapsed_s = time.monotonic() - began_at
            figures["gateway_cpu_ratio"] = (target.cpu_s - cpu_s) / elapsed_s
            # For a CPU that others had: near 0 on a machine that nobody else uses.
            figures["gateway_waited_ratio"] = (target.waited_s - waited_s) / elapsed_s
        results[name] = figures
        print(f"  {name:30}", "  ".join(f"{key} {value:.6g}" for key, value in figures.items()), flush=True)
    return results


def measured_rounds(engine: str, *, num_rounds: int, seconds: float, has_litellm: bool) -> dict[str, list[Figures]]:
    openers: dict[str, Callable[[], AbstractContextManager[Target]]] = {
        "direct": lambda: nullcontext(Target(engine)),
        "plain": partial(gateway, PLAIN, engine),
        "full": partial(gateway, FULL, engine),
    }
    if has_litellm:
        openers["litellm"] = partial(litellm_proxy, engine)
    rounds: dict[str, list[Figures]] = {name: [] for name in openers}
    for number in range(num_rounds):
        # Forwards and backwards: what drifts falls on all alike.
        for name in openers if number % 2 == 0 else reversed(openers):
            print(f"{name}, round {number + 1}", flush=True)
            with openers[name]() as target:
                if name == "litellm":
                    figures = measure(target, max(seconds, SLOW_S), warm_up_s=SLOW_WARM_UP_S)
                else:
                    figures = measure(target, seconds)
                rounds[name].append(figures)
    return rounds


def summary(rounds: Sequence[Figures]) -> dict[str, Any]:
    """Medians of each figure over the rounds; errors are summed."""
    shown: dict[str, Any] = {}
    for load in LOADS:
        shown[load] = {key: median(one[load][key] for one in rounds) for key in rounds[0][load]}
        shown[load]["num_errors"] = sum(one[load]["num_errors"] for one in rounds)
    if "idle_resident_bytes" in rounds[0]:
        shown["idle_resident_bytes"] = max(one["idle_resident_bytes"] for one in rounds)
    return shown


def added(direct: Sequence[Figures], through: Sequence[Figures]) -> dict[str, float]:
    return {
        key: median(one[ALONE][key] - bare[ALONE][key] for bare, one in zip(direct, through, strict=True))
        for key in ("latency_p50_s", "latency_p99_s")
    }


def ratios(full: Figures, other: Figures) -> dict[str, dict[str, float | None]]:
    """The other's figures to the full gateway's: requests/s as ours over theirs, latencies as theirs over ours.

    None where the other answered nothing within the time.
    """
    return {load: _load_ratios(full[load], other[load]) for load in LOADS}


def _load_ratios(full: Figures, other: Figures) -> dict[str, float | None]:
    if not other["requests_per_s"]:
        return dict.fromkeys(MEASURED)
    return {
        "requests_per_s": full["requests_per_s"] / other["requests_per_s"],
        **{key: other[key] / full[key] for key in MEASURED if key.startswith("latency")},
    }


def bars(results: Mapping[str, Figures]) -> list[Bar]:
    full, ours = results["full"], ("direct", "plain", "full")
    rate = full[BUSY]["requests_per_s"]
    return [
        Bar(name="req/s, full, 64 connections", measured=rate, limit=2500, kind="at least"),
        Bar(name="req/s, full, 64 connections", measured=rate, limit=5000, kind="at least", is_stretch=True),
        Bar(name="added p50, full, 1 connection, ms", measured=full["added"]["latency_p50_s"] * 1000, limit=0.5,
            kind="at most"),
        Bar(name="added p99, full, 1 connection, ms", measured=full["added"]["latency_p99_s"] * 1000, limit=3.0,
            kind="at most"),
        Bar(name="resident idle, full, MB", measured=full["idle_resident_bytes"] / 1e6, limit=150, kind="at most"),
        Bar(name="errors", measured=sum(results[name][load]["num_errors"] for name in ours for load in LOADS), limit=0,
            kind="at most"),
    ]  # fmt: skip


def results_of(rounds: Mapping[str, Sequence[Figures]]) -> dict[str, Any]:
    results: dict[str, Any] = {name: {**summary(each), "rounds": each} for name, each in rounds.items()}
    for name in results.keys() - {"direct"}:
        results[name]["added"] = added(rounds["direct"], rounds[name])
    if "litellm" in results:
        results["litellm"]["full_beside_it"] = ratios(results["full"], results["litellm"])
    return results


def main() -> int:
    arguments = _arguments()
    if (reason := cannot_measure("wrk")) is not None:
        print(reason, file=sys.stderr)
        return 1
    if arguments.litellm:
        install()
    version = installed_version()
    report = {"what": (__doc__ or "").partition("\n")[0], **machine()}
    with server_behind("instant_server.py") as engine:
        rounds = measured_rounds(
            engine, num_rounds=arguments.rounds, seconds=arguments.seconds, has_litellm=version is not None
        )
    results = results_of(rounds)
    if version is None:
        print("litellm: not measured, it is not installed; --litellm installs it")
        results["litellm"] = "not measured: not installed"
    reached = bars(results)
    report |= {"load_average_after": os.getloadavg()[0], "litellm_version": version, **results}
    arguments.out.write_text(json.dumps({**report, "bars": as_json(reached)}, indent=2) + "\n")
    print_table(results)
    return exit_code(reached)


def print_table(results: Mapping[str, Any]) -> None:
    for load in LOADS:
        print(load)
        for name in (name for name in ("direct", "plain", "full", "litellm") if isinstance(results[name], dict)):
            figures = results[name][load]
            print(
                f"  {name:8} {figures['requests_per_s']:9.1f} req/s  p50 {figures['latency_p50_s'] * 1000:8.3f} ms  "
                f"p99 {figures['latency_p99_s'] * 1000:8.3f} ms  errors {figures['num_errors']:g}"
            )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--litellm", action="store_true", help="install LiteLLM's proxy if it is not there")
    parser.add_argument("--out", type=Path, default=RESULTS / "gateway.json")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
