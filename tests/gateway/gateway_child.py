"""`enginebay serve CONFIG` and the engines behind it as processes of their own, and what to ask of them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from enginebay.clock import MonotonicClock

CLI = (sys.executable, "-m", "enginebay.cli")
WAIT_S = 30.0
"""Longer than anything takes on a busy machine: who waits so long has found a defect."""
NEST_PLUGIN = Path(__file__).parent / "nest_plugin.py"


class GatewayChild:
    """What it prints is read as it comes: `lines` has standard output and the log, in the order of their arrival."""

    def __init__(self, config: str, folder: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.path = folder / "gateway.yaml"
        self.path.write_text(config)
        self.lines: list[str] = []
        self._has_news = threading.Condition()
        command = [*CLI, "serve", str(self.path), "--die-with-parent"]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {})},
            cwd=folder,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._has_news:
                self.lines.append(line)
                self._has_news.notify_all()
        with self._has_news:
            self._has_news.notify_all()

    def wait_for(self, text: str, *, num: int = 1) -> str:
        """The line that says it the num-th time. Fails where the process ends without it."""
        with self._has_news:
            self._has_news.wait_for(lambda: len(self._saying(text)) >= num or self.process.poll() is not None, WAIT_S)
            found = self._saying(text)
        assert len(found) >= num, f"no {text!r} in:\n{self.log}"
        return found[num - 1]

    def _saying(self, text: str) -> list[str]:
        return [line for line in self.lines if text in line]

    @property
    def log(self) -> str:
        return "".join(self.lines)

    @property
    def url(self) -> str:
        """Waits until it is ready."""
        return self.wait_for("ready: http").split()[1]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def engines(self) -> list[psutil.Process]:
        """All processes that it started, with theirs."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def ended(self, timeout_s: float = WAIT_S) -> int:
        """Its exit code, with all that it wrote read."""
        code = self.process.wait(timeout_s)
        self._reader.join(WAIT_S)
        return code

    def kill(self) -> None:
        """With its engines, where it has not ended."""
        if self.process.poll() is None:
            engines = self.engines()
            self.process.kill()
            for engine in engines:
                with suppress(psutil.NoSuchProcess):
                    engine.kill()
        self.ended()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def gateway_child(
    config: str, folder: Path, *, environment: Mapping[str, str] | None = None
) -> Generator[GatewayChild, None, None]:
    """Killed in the end, if it has not ended."""
    child = GatewayChild(config, folder, environment=environment)
    try:
        yield child
    finally:
        child.kill()


def with_nests(folder: Path) -> dict[str, str]:
    """The environment in which the kind of backend `nest` is installed, as a third party's."""
    plugins = folder / "plugins"
    metadata = plugins / "enginebay_nest-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: enginebay-nest\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[enginebay.backends]\nnest = enginebay_nest\n")
    (plugins / "enginebay_nest.py").write_text(NEST_PLUGIN.read_text())
    return {"PYTHONPATH": str(plugins)}


def have_ended(processes: Sequence[psutil.Process]) -> bool:
    """All of them, within the time that ends take."""
    _, alive = psutil.wait_procs(processes, timeout=10)
    return not alive


def wait_until(holds: Any, what: str) -> None:
    """For what nobody announces: looks again and again."""
    clock = MonotonicClock()
    gives_up_at = clock.now() + WAIT_S
    pause = threading.Event()
    while not holds():
        assert clock.now() < gives_up_at, f"still not: {what}"
        pause.wait(0.02)


@contextmanager
def simulator_child(
    *arguments: str, kind: str = "vllm", port: int = 0, flags: Sequence[str] = ("--model", "tiny")
) -> Generator[tuple[subprocess.Popen[str], str], None, None]:
    """Its process and URL. Killed in the end, whatever happened."""
    given = ("--port", str(port), "--load-time-s", "0", *arguments)
    process = subprocess.Popen(
        [*CLI, "simulate", kind, *given, "--", *flags], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        yield process, found.group()
    finally:
        process.kill()
        process.communicate()


def fetched(url: str, *, key: str | None = None, fields: object = None, timeout_s: float = WAIT_S) -> bytes:
    """fields: None is a GET. Raises HTTPError for an answer that is no 200."""
    headers = {"content-type": "application/json"} | ({} if key is None else {"authorization": f"Bearer {key}"})
    body = None if fields is None else json.dumps(fields).encode()
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=timeout_s) as response:
        return response.read()


def samples(text: str) -> dict[str, float]:
    """Of Prometheus text: by name and labels, as they stand there."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def sum_of(text: str, name: str) -> float:
    """Over all labels."""
    return sum(value for sample, value in samples(text).items() if sample.partition("{")[0] == name)
