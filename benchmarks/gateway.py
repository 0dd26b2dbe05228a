"""What the gateway costs: wrk in front of it, an instant server behind it, and the same without it.

    python benchmarks/gateway.py [--seconds 10] [--out benchmarks/results/gateway.json]

Needs wrk, and two CPUs: the gateway has the first one to itself, wrk and the server behind have the others. Each load
is measured without the gateway (`direct`), with one model and nothing else (`plain`), and with keys, limits, routing,
metrics and the ledger on (`full`). Added latencies are differences of percentiles at one connection.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
GATEWAY_CPU = "0"
OTHER_CPUS = f"1-{max(1, (os.cpu_count() or 2) - 1)}"
FIELDS = {"model": "m", "prompt": "eight words make the prompt of this request", "max_tokens": 16}
LOADS = {
    "not_streamed_64_connections": (64, FIELDS),
    "not_streamed_1_connection": (1, FIELDS),
    "streamed_64_connections": (64, {**FIELDS, "stream": True}),
}
PLAIN = """
version: 1
backends:
  engine: {{kind: openai_http, url: "{engine}", model: m}}
server: {{port: 0}}
gateway:
  models: {{m: {{versions: {{v1: [{{backend: engine}}]}}}}}}
"""
FULL = (
    PLAIN
    + """  database: sqlite:///{folder}/gateway.db
  routing: {{policy: power_of_two}}
  access: {{}}
  limits:
    key: {{requests_per_second: 1000000, tokens_per_minute: 1000000000, concurrent_requests: 100000}}
    address: {{requests_per_second: 1000000, concurrent_requests: 100000}}
  ledger: {{journal: "{folder}/journal", prices: {{m: {{prompt: 0.1, output: 0.4}}}}}}
"""
)
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}


@dataclass(frozen=True, slots=True)
class Target:
    url: str
    key: str | None = None
    process: psutil.Process | None = None


def pinned(cpus: str, *command: str) -> list[str]:
    return ["taskset", "--cpu-list", cpus, *command]


@contextmanager
def instant_server() -> Generator[str, None, None]:
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        script = str(ROOT / "benchmarks" / "instant_server.py")
        process = subprocess.Popen(pinned(OTHER_CPUS, sys.executable, script, str(fd)), pass_fds=(fd,))
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def gateway(config: str, folder: Path) -> Generator[Target, None, None]:
    path = folder / "gateway.yaml"
    path.write_text(config)
    command = [sys.executable, "-m", "enginebay.cli"]
    key: str | None = None
    if "access:" in config:
        made = subprocess.run(
            [*command, "keys", "create", str(path), "bench"], capture_output=True, text=True, check=True
        )
        key = made.stdout.strip()
    serve = pinned(GATEWAY_CPU, *command, "serve", str(path), "--port", "0")
    process = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = next(line.split()[1] for line in process.stdout if line.startswith("ready:"))
        yield Target(url, key, psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(30)


def run_wrk(target: Target, fields: dict[str, Any], *, num_connections: int, seconds: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(_lua(target, json.dumps(fields, separators=(",", ":"))))
        command = pinned(
            OTHER_CPUS, "wrk", "--threads=1", f"--connections={num_connections}", f"--duration={seconds:g}s",
            "--latency", f"--script={script}", f"{target.url}/v1/completions",
        )  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return read_wrk(done.stdout)


def _lua(target: Target, body: str) -> str:
    authorization = "" if target.key is None else f'wrk.headers["authorization"] = "Bearer {target.key}"\n'
    return (
        f"wrk.method = 'POST'\nwrk.body = [[{body}]]\nwrk.headers['content-type'] = 'application/json'\n{authorization}"
    )


def read_wrk(text: str) -> dict[str, float]:
    """Figures of wrk's report. An answer that is no 200 counts as an error, as a broken connection does."""
    figures = {"requests_per_s": float(_found(r"Requests/sec:\s+([\d.]+)", text))}
    for percentile in (50, 99):
        amount, unit = re.search(rf"^\s+{percentile}%\s+([\d.]+)(us|ms|s|m)$", text, re.M).groups()  # pyright: ignore
        figures[f"latency_p{percentile}_s"] = float(amount) * _UNITS[unit]
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    figures["num_errors"] = int(refused[1]) if refused else 0
    figures["num_errors"] += sum(map(int, broken.groups())) if broken else 0
    return figures


def _found(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    assert found is not None, text
    return found[1]


def measure(target: Target, seconds: float) -> dict[str, Any]:
    results: dict[str, Any] = {}
    if target.process is not None:
        results["idle_resident_bytes"] = target.process.memory_info().rss
    for name, (num_connections, fields) in LOADS.items():
        run_wrk(target, fields, num_connections=num_connections, seconds=1)  # warm
        before = _cpu_s(target)
        began_at = time.monotonic()
        figures = run_wrk(target, fields, num_connections=num_connections, seconds=seconds)
        if before is not None:
            figures["gateway_cpu_ratio"] = (_cpu_s(target) or 0.0) - before
            figures["gateway_cpu_ratio"] /= time.monotonic() - began_at
        results[name] = figures
        print(f"  {name:30}", "  ".join(f"{key} {value:.6g}" for key, value in figures.items()), flush=True)
    if target.process is not None:
        results["resident_bytes"] = target.process.memory_info().rss
    return results


def _cpu_s(target: Target) -> float | None:
    if target.process is None:
        return None
    times = target.process.cpu_times()
    return times.user + times.system


def added(direct: dict[str, Any], through: dict[str, Any]) -> dict[str, float]:
    name = "not_streamed_1_connection"
    return {key: through[name][key] - direct[name][key] for key in ("latency_p50_s", "latency_p99_s")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "gateway.json")
    arguments = parser.parse_args()
    if missing := [tool for tool in ("wrk", "taskset") if shutil.which(tool) is None]:
        print(f"not measured: {', '.join(missing)} is not installed", file=sys.stderr)
        return 1
    results: dict[str, Any] = {
        "machine": {"num_cpus": os.cpu_count(), "python": platform.python_version(), "load_before": os.getloadavg()[0]},
        "simulated": True,
    }
    with instant_server() as engine:
        print("direct", flush=True)
        results["direct"] = measure(Target(engine), arguments.seconds)
        for name, config in (("plain", PLAIN), ("full", FULL)):
            print(name, flush=True)
            with tempfile.TemporaryDirectory() as folder:
                text = config.format(engine=engine, folder=folder)
                with gateway(text, Path(folder)) as target:
                    results[name] = measure(target, arguments.seconds)
            results[name]["added"] = added(results["direct"], results[name])
    arguments.out.write_text(json.dumps(results, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
