"""Where a result was measured, so that a reader can tell whether two of them may be compared."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import psutil

PACKAGES = ("enginebay", "torch", "numpy", "tokenizers", "transformers", "httptools", "uvloop", "vllm", "openvino")
NVIDIA_SMI_TIMEOUT_S = 30.0
"""A driver in trouble does not answer at all."""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    python: str
    operating_system: str
    cpu: str
    num_cores: int
    """That this process may use."""
    memory_bytes: int
    packages: dict[str, str]
    """Installed versions of what matters for speed, in our own environment: an engine in another one tells its own."""
    gpus: tuple[str, ...] = ()
    """Names of this machine's GPUs; empty where there is none, or no driver to tell of it."""


def describe_environment() -> Environment:
    return Environment(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        operating_system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu=_cpu_model(),
        num_cores=num_cores(),
        memory_bytes=psutil.virtual_memory().total,
        packages={name: found for name in PACKAGES if (found := _version(name)) is not None},
        gpus=_gpus(),
    )


def gpu_memory_used_bytes() -> tuple[int, ...]:
    """Of each GPU, by whoever uses it; empty where nobody tells. Blocks."""
    try:
        return tuple(int(mebibytes) * 2**20 for mebibytes in _asked_of_driver("memory.used", ",nounits"))
    except ValueError:  # `[N/A]`
        return ()


def _gpus() -> tuple[str, ...]:
    return _asked_of_driver("name")


def _asked_of_driver(what: str, units: str = "") -> tuple[str, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ("nvidia-smi", f"--query-gpu={what}", f"--format=csv,noheader{units}")
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=NVIDIA_SMI_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(done.stdout.splitlines()) if done.returncode == 0 else ()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def num_cores() -> int:
    """That this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
