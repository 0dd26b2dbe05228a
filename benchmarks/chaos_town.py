"""The processes of the chaos: a gateway with everything on, and simulated engines that can be killed and stopped."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

CLI = (sys.executable, "-m", "enginebay.cli")
ENGINE = Path(__file__).parent / "chaos_engine.py"
CALM_S = 30.0
"""Until everything has come to rest after the last client, at most."""
CONFIG = """
version: 1
backends:
{backends}
server: {{port: {port}, write_timeout_s: 2}}
gateway:
  reload_on_change: false
  models:
    m: {{versions: {{v1: [{first}], v2: [{all}]}}, current: {current}}}
  routing: {{policy: {policy}}}
  timeouts: {{first_token_s: 1.5, between_tokens_s: 0.8, total_s: 6}}
  admission: {{max_in_flight: 32, max_queued: 48, max_wait_s: 1.5}}
  breaker: {{num_failures: 8, open_s: 0.3, max_open_s: 1}}
  health: {{period_s: 0.3, timeout_s: 1}}
  restarts: {{min_pause_s: 0.1, max_pause_s: 0.3}}
  database: sqlite:///{folder}/gateway.db
  access: {{}}
  limits:
    key: {{tokens_per_minute: 100000000, concurrent_requests: 60}}
    tiers: {{tight: {{tokens_per_minute: 20000, concurrent_requests: 8}}}}
    address: {{concurrent_requests: 1000}}
  ledger: {{journal: "{folder}/journal", prices: {{m: {{prompt: 1, output: 2}}}}}}
"""
KEYS = ("", "", "", "tight")
"""Tiers of the keys."""


class Engine:
    def __init__(self, number: int, folder: Path) -> None:
        self.port = _free_port()
        self.report = folder / f"engine-{number}.jsonl"
        self._number, self._num_starts = number, 0
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Returns when it listens."""
        self._num_starts += 1
        seed = str(1000 * self._number + self._num_starts)
        command = [sys.executable, str(ENGINE), str(self.port), str(self.report), "--seed", seed]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), "the engine did not start"

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    @contextmanager
    def stopped(self) -> Generator[None, None, None]:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def computed(self) -> list[dict[str, Any]]:
        """Of each request that ended in one of its lives: id, num_tokens, reason."""
        with suppress(FileNotFoundError):
            return [json.loads(line) for line in self.report.read_text().splitlines()]
        return []

    def num_slots(self) -> float:
        """Requests that it runs or keeps waiting now."""
        text = fetched(f"http://127.0.0.1:{self.port}/metrics")
        return sum_of(text, "vllm:num_requests_running") + sum_of(text, "vllm:num_requests_waiting")


class GatewayProcess:
    def __init__(self, path: Path, log: Path) -> None:
        with log.open("w") as errors:
            self.process = subprocess.Popen(
                [*CLI, "serve", str(path), "--die-with-parent"], stdout=subprocess.PIPE, stderr=errors, text=True
            )
        assert self.process.stdout is not None
        line = next((line for line in self.process.stdout if line.startswith("ready:")), None)
        if line is None:
            raise RuntimeError(f"the gateway ended before it was ready:\n{log.read_text()[-4000:]}")

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.process.kill()
            self.process.communicate()


class Town:
    def __init__(self, folder: Path, *, num_engines: int) -> None:
        self._folder, self.path = folder, folder / "gateway.yaml"
        self.port = _free_port()
        self.engines = [Engine(number, folder) for number in range(num_engines)]
        self.exit_code: int | None = None

    @classmethod
    @contextmanager
    def running(cls, folder: Path, *, num_engines: int) -> Generator[Town, None, None]:
        town = cls(folder, num_engines=num_engines)
        try:
            for engine in town.engines:
                engine.start()
            town.write_config(Random(0))
            town.keys = [_new_key(town.path, f"key {n}", tier) for n, tier in enumerate(KEYS)]
            town._watcher = _new_key(town.path, "watcher", "", "--scope", "metrics")
            town.gateway = GatewayProcess(town.path, folder / "gateway.log")
            yield town
        finally:
            if town.exit_code is None and hasattr(town, "gateway"):
                town.end()
            for engine in town.engines:
                engine.kill()

    keys: Sequence[str]
    gateway: GatewayProcess
    num_tasks_before: float
    _watcher: str

    def write_config(self, rng: Random, *, is_bad: bool = False) -> None:
        names = [f"e{number}" for number in range(len(self.engines))]
        entries = [
            f'  {name}: {{kind: openai_http, model: m, url: "http://127.0.0.1:{engine.port}", '
            f"options: {{start_timeout_s: 2}}}}"
            for name, engine in zip(names, self.engines, strict=True)
        ]
        self.path.write_text(
            CONFIG.format(
                backends="\n".join(entries),
                port=self.port,
                folder=self._folder,
                first=", ".join(f"{{backend: {name}}}" for name in rng.sample(names, 2)),
                all=", ".join(f"{{backend: {name}}}" for name in names),
                current="v9" if is_bad else rng.choice(("v1", "v2", "v2")),
                policy=rng.choice(("least_loaded", "power_of_two", "prefix_aware", "round_robin")),
            )
        )

    def metrics(self) -> str:
        return fetched(f"http://127.0.0.1:{self.port}/metrics", key=self._watcher)

    def warmed_up(self) -> None:
        """Everything that is begun by the first requests has begun."""
        self.num_tasks_before = sum_of(self.metrics(), "enginebay_tasks")

    async def calm(self) -> None:
        """Until nothing is under way any more, or it is clear that something stays."""
        gives_up_at = time.monotonic() + CALM_S
        while time.monotonic() < gives_up_at:
            text = await asyncio.to_thread(self.metrics)
            slots = sum([await asyncio.to_thread(engine.num_slots) for engine in self.engines])
            if not slots and not sum_of(text, "enginebay_pool_inside") and sum_of(text, "enginebay_open_requests") <= 1:
                await asyncio.sleep(1)  # what ends a moment after its request: connections that are idle, watches
                return
            await asyncio.sleep(0.1)

    def end(self) -> None:
        self.exit_code = self.gateway.end()

    def ledger(self) -> list[dict[str, Any]]:
        """All rows, once the gateway has ended."""
        with sqlite3.connect(self._folder / "gateway.db") as connection:
            connection.row_factory = sqlite3.Row
            rows = [dict(row) for row in connection.execute("SELECT * FROM ledger")]
        connection.close()
        return rows

    def log_lines(self) -> list[dict[str, Any]]:
        lines = (self._folder / "gateway.log").read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]


def fetched(url: str, *, key: str | None = None) -> str:
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as response:
        return response.read().decode()


def sum_of(text: str, name: str) -> float:
    """Of a metric, over all labels."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
    return sum(float(value) for _, value in lines)


def _new_key(path: Path, name: str, tier: str, *others: str) -> str:
    tiers = ("--tier", tier) if tier else ()
    command = [*CLI, "keys", "create", str(path), name, *tiers, *others]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
