"""A gateway in a process of its own, for as long as a benchmark needs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

CLI = (sys.executable, "-m", "enginebay.cli")
END_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class GatewayProcess:
    url: str
    process: psutil.Process

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


@contextmanager
def running_gateway(
    config: str, folder: Path, *, prefix: Sequence[str] = (), program: Sequence[str] = CLI
) -> Generator[GatewayProcess, None, None]:
    """prefix: before the command, as `taskset` is. The log is `gateway.log` in the folder, shown where it fails."""
    path, log = folder / "gateway.yaml", folder / "gateway.log"
    path.write_text(config)
    command = [*prefix, *program, "serve", str(path), "--port", "0", "--die-with-parent"]
    with log.open("w") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        yield GatewayProcess(_url(process, log), psutil.Process(process.pid))
    finally:
        process.terminate()
        process.wait(END_WITHIN_S)
        if process.stdout is not None:
            process.stdout.close()


def new_key(folder: Path, name: str) -> str:
    """An API key in the database of the gateway that runs in this folder, or will."""
    command = [*CLI, "keys", "create", str(folder / "gateway.yaml"), name]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _url(process: subprocess.Popen[str], log: Path) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready:"):
            return line.split()[1]
    raise RuntimeError(f"the gateway ended before it was ready:\n{log.read_text()[-4000:]}")
