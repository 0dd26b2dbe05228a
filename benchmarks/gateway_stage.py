"""The stage of the gateway's benchmarks: a server behind, a gateway in front of it, and who has which CPU.

The gateway has the first CPU to itself; the server behind it and the client have the others.
"""

from __future__ import annotations

import os
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

import msgspec
import psutil
from gateway_process import new_key, running_gateway

from enginebay.loadtest.environment import describe_environment

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
GATEWAY_CPU = "0"
OTHER_CPUS = f"1-{max(1, (os.cpu_count() or 2) - 1)}"
STOP_S = 30.0
PLAIN = """
version: 1
backends:
  engine: {{kind: openai_http, url: "{engine}", model: m}}
server: {{port: 0}}
gateway:
  models: {{m: {{versions: {{v1: [{{backend: engine}}]}}}}}}
  admission: {{max_in_flight: 4096}}
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


@dataclass(frozen=True, slots=True)
class Target:
    """What is measured. process: of the gateway, where there is one."""

    url: str
    key: str | None = None
    process: psutil.Process | None = None

    @property
    def cpu_s(self) -> float:
        """Used so far; 0 where there is no gateway."""
        if self.process is None:
            return 0.0
        times = self.process.cpu_times()
        return times.user + times.system

    @property
    def waited_s(self) -> float:
        """So far, of its main thread, for a CPU that others had; 0 where there is no gateway, or nobody tells."""
        if self.process is None:
            return 0.0
        try:
            return int(Path(f"/proc/{self.process.pid}/schedstat").read_text().split()[1]) / 1e9
        except OSError:
            return 0.0

    @property
    def resident_bytes(self) -> int | None:
        return None if self.process is None else self.process.memory_info().rss


def pinned(cpus: str, *command: str) -> list[str]:
    return ["taskset", "--cpu-list", cpus, *command]


def use_other_cpus() -> None:
    """This process, from now on."""
    os.sched_setaffinity(0, set(range(1, os.cpu_count() or 2)))


def cannot_measure(*tools: str) -> str | None:
    """Why not, where these tools or a second CPU are missing."""
    if missing := [tool for tool in ("taskset", *tools) if shutil.which(tool) is None]:
        return f"not measured: {', '.join(missing)} is not installed"
    return "not measured: there is one CPU only" if (os.cpu_count() or 1) < 2 else None


def machine() -> dict[str, Any]:
    """Where and when; to be asked before anything is measured."""
    return {
        "environment": msgspec.to_builtins(describe_environment()),
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load_average_before": os.getloadavg()[0],
        "gateway_cpus": GATEWAY_CPU,
        "other_cpus": OTHER_CPUS,
        "simulated": True,
    }


@contextmanager
def log_kept_on_failure(log: Path) -> Generator[None, None, None]:
    """What a process writes beside its work is thrown away with its folder, unless what is measured fails."""
    try:
        yield
    except BaseException:
        if log.exists():
            handle, kept = tempfile.mkstemp(prefix=f"{log.stem}-", suffix=log.suffix)
            os.close(handle)
            shutil.copyfile(log, kept)
            print(f"what {log.stem} said is in {kept}", file=sys.stderr)
        raise


@contextmanager
def ended_after(process: subprocess.Popen[str]) -> Generator[None, None, None]:
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def server_behind(script: str, *arguments: str) -> Generator[str, None, None]:
    """One of this folder, which serves on the listening socket that it is given first; yields its URL."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:
        fd, port = listener.fileno(), listener.getsockname()[1]
        command = [sys.executable, str(ROOT / "benchmarks" / script), str(fd), *arguments]
        process = subprocess.Popen(pinned(OTHER_CPUS, *command), pass_fds=(fd,), text=True)
    with ended_after(process):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def gateway(config: str, engine: str) -> Generator[Target, None, None]:
    """`enginebay serve` with this config before the engine; with a key of its own where the config asks for keys."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with (
            log_kept_on_failure(folder / "gateway.log"),
            running_gateway(config.format(engine=engine, folder=name), folder, prefix=pinned(GATEWAY_CPU)) as running,
        ):
            key = new_key(folder, "bench") if "access:" in config else None
            yield Target(running.url, key, running.process)
