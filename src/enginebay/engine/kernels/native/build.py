"""Compiles `kernels.cpp` against the PyTorch that runs, and keeps the library beside the models.

Two calls of the compiler do it. PyTorch's own builder would need ninja, and loads what it built before that has its
place: of two engines that start together, the later one would load the same operators twice.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from enginebay.engine.kernels import compiled
from enginebay.engine.kernels.machine import (
    COMPILER_VARIABLE,
    COMPILERS,
    cpu_features,
    find_compiler,
    what_this_machine_lacks,
)

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-std=c++20")
DIRECTORY_VARIABLE = "ENGINEBAY_HOME"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class NativeKernels:
    operators: Any | None
    """`torch.ops.enginebay`"""
    why_not: str = ""
    """There are no operators: the reason."""


@cache
def native_kernels() -> NativeKernels:
    """Compiled if they have to be. Raises nothing, not even for a compiler that fails: there are other kernels."""
    if (missing := what_this_machine_lacks()) is not None:
        return NativeKernels(None, missing)
    try:
        library = _library()
        with compiled.nothing_is_removed(library.parent.parent):
            if is_new := not compiled.is_there(library):
                _compile(library)
            why_not = _load(library)
        if is_new:
            compiled.remove_unused(library.parent.parent, now=time.time())
    except (OSError, RuntimeError, ValueError) as error:
        return _failed(f"they cannot be compiled: {_told(error)}")
    if why_not is not None:
        return _failed(why_not)
    operators = torch.ops.enginebay
    if not operators.request_tiles():
        return _failed("the system does not give this process AMX tiles")
    return NativeKernels(operators)


def is_compiled() -> bool:
    """For this source, torch and CPU: they start at once."""
    try:
        return _library().exists()
    except (OSError, RuntimeError):  # a home that is not ours to look into, or none
        return False


def _load(library: Path) -> str | None:
    """Why it cannot be; None once it is."""
    try:
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError) as error:
        return f"{library} cannot be loaded: {_told(error)}; delete it to have it compiled again"
    return None


def _failed(why_not: str) -> NativeKernels:
    """On a machine that should have them: worth a word even where other kernels do."""
    _log.warning("the native kernels are not used: %s", why_not)
    return NativeKernels(None, why_not)


def _told(error: Exception) -> str:
    """The lines of it that name an error, else the first: a compiler writes pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "error" in line.lower()][:3]
    return " / ".join(named or lines[:1] or [type(error).__name__])


def _library() -> Path:
    """Another source, torch or CPU is another library: one home may be shared between machines."""
    told = (
        SOURCE.read_bytes(),
        torch.__version__.encode(),
        " ".join(FLAGS).encode(),
        " ".join(sorted(cpu_features())).encode(),
    )
    digest = sha256(b"\0".join(told)).hexdigest()[:16]
    return _home() / "kernels" / digest / "enginebay_kernels.so"


def _home() -> Path:
    home = os.environ.get(DIRECTORY_VARIABLE)
    return Path(home).expanduser() if home else Path.home() / ".cache" / "enginebay"


# ---------------------------------------------------------------- compiling


def _compile(library: Path) -> None:
    """Into a folder of this process, then renamed: two engines that start together do not disturb each other.

    Raises RuntimeError with what the compiler says, OSError where the folder cannot be written.
    """
    folder = library.parent.with_name(f"{library.parent.name}.{os.getpid()}")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _build(folder / library.name)
        try:
            folder.rename(library.parent)
        except OSError:
            if not library.exists():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _build(library: Path) -> None:
    """OpenMP is not linked: PyTorch has loaded it already, and its threads are the ones to use."""
    compiler, torch_folder, compiled = _compiler(), Path(torch.__file__).parent, library.with_suffix(".o")
    include = torch_folder / "include"
    folders = [f"-isystem{folder}" for folder in (include, include / "torch" / "csrc" / "api" / "include")]
    strings = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    _run(*compiler, *FLAGS, "-fPIC", strings, *folders, "-c", str(SOURCE), "-o", str(compiled))
    libraries = (f"-L{torch_folder / 'lib'}", "-ltorch_cpu", "-lc10")
    _run(*compiler, "-shared", str(compiled), *libraries, "-o", str(library))
    compiled.unlink()


def _compiler() -> list[str]:
    if (command := find_compiler()) is not None:
        return command
    raise RuntimeError(f"a C++ compiler must be installed ({' or '.join(COMPILERS)}), or named by {COMPILER_VARIABLE}")


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or f"{command[0]} ended with exit code {done.returncode}")
