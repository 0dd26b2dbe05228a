"""What this machine has for native kernels: instructions of its CPU, and a C++ compiler."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
from pathlib import Path

NEEDED_FEATURES = frozenset({"amx_tile", "amx_int8", "amx_bf16", "avx512_bf16", "avx512f", "avx512bw", "avx512vl"})
COMPILER_VARIABLE, COMPILERS = "CXX", ("c++", "g++")


def what_this_machine_lacks() -> str | None:
    """Of what the native kernels are made for, in words; None where it has everything."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "they are for x86-64 CPUs under Linux"
    if missing := NEEDED_FEATURES - cpu_features():
        return f"this CPU lacks {', '.join(sorted(missing))}"
    return None


def cpu_features() -> frozenset[str]:
    """In the words of Linux; empty on other systems."""
    return frozenset(_cpu_info("flags").split())


def cpu_name() -> str:
    return _cpu_info("model name") or platform.processor() or platform.machine()


def find_compiler() -> list[str] | None:
    """The command: CXX, which may give more than a name, or the first that is installed."""
    if given := _words(os.environ.get(COMPILER_VARIABLE, "")):
        return given
    return next(([found] for name in COMPILERS if (found := shutil.which(name)) is not None), None)


def why_no_compiler() -> str | None:
    """In words; None where there is one."""
    command = find_compiler()
    if command is None:
        return "they need a C++ compiler, and there is none"
    if shutil.which(command[0]) is None:
        return f"they need a C++ compiler, and {COMPILER_VARIABLE} names {command[0]!r}, which is not there"
    return None


def _words(command: str) -> list[str]:
    """One word where a quotation does not end: whoever runs it will tell what it was."""
    try:
        return shlex.split(command)
    except ValueError:
        return [command]


def _cpu_info(key: str) -> str:
    """Of the first core."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.split(":")[0].strip() == key), "")
