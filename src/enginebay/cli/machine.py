"""What this machine has, as far as this process may use it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    num_cores: float
    """Fractions come from a container's quota."""
    memory_bytes: int
    available_memory_bytes: int
    gpus: tuple[str, ...]
    """NVIDIA GPUs by name and memory, as nvidia-smi tells them."""


def this_machine() -> Machine:
    total = _memory_limit(psutil.virtual_memory().total)
    return Machine(
        num_cores=_usable_cores(),
        memory_bytes=total,
        available_memory_bytes=min(psutil.virtual_memory().available, total),
        gpus=_gpus(),
    )


def _usable_cores() -> float:
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    return min(cores, int(quota) / int(period)) if quota.isdigit() and period.isdigit() else cores


def _memory_limit(total_bytes: int) -> int:
    limit = _read(_CGROUP / "memory.max")
    return min(total_bytes, int(limit)) if limit.isdigit() else total_bytes


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""  # no cgroup of the second version: no limit that we know of


def _gpus() -> tuple[str, ...]:
    executable = shutil.which("nvidia-smi")
    if executable is None:
        return ()
    query = [executable, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()  # a driver that does not answer is no GPU that could be used
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip())
