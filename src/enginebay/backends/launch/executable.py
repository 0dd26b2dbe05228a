"""Which program a command runs: in the entry's virtual environment, or on the path."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from enginebay.backend import BackendContext
from enginebay.errors import StartFailed


def program_of(context: BackendContext, command: Sequence[str], *, path: str, install: str | None = None) -> str:
    """The file of the program that this command runs. path: that of the child. Raises StartFailed.

    A container's runtime, and what `options.executable` names, may live outside of the entry's virtual environment.
    """
    is_container = runs_container(context, command)
    return find_executable(
        command[0],
        path=path,
        venv=context.venv,
        is_replaced=bool(context.options.executable) or is_container,
        backend=context.name,
        install=None if is_container else install,
    )


def runs_container(context: BackendContext, command: Sequence[str]) -> bool:
    return tuple(command[:2]) == (context.options.container_runtime, "run")


def environment_of_venv(environment: Mapping[str, str], venv: str | None) -> dict[str, str]:
    """As if the virtual environment had been activated."""
    if venv is None:
        return dict(environment)
    path = os.pathsep.join(filter(None, [str(_bin(venv)), environment.get("PATH")]))
    return {**environment, "PATH": path, "VIRTUAL_ENV": str(Path(venv).expanduser().absolute())}


def find_executable(
    program: str, *, path: str, venv: str | None, is_replaced: bool, backend: str, install: str | None
) -> str:
    """The program's file. path: that of the child. is_replaced: `options.executable` names it, so that it may live
    outside of the venv. Raises StartFailed."""
    if venv is not None:
        _check_venv(venv, backend=backend, install=install)
    search = path if venv is None or is_replaced else str(_bin(venv))
    # The last place is our own environment's: what is installed there is meant, activated or not.
    beside_us = str(Path(sys.executable).parent)
    found = shutil.which(program, path=search) or (shutil.which(program, path=beside_us) if venv is None else None)
    if found is None and (there := shutil.which(program, mode=os.F_OK, path=search)) is not None:
        raise StartFailed(
            f"{there} cannot be executed",
            backend=backend,
            likely_cause=f"chmod +x {there}, or put the program that runs it before it in options.executable",
        )
    if found is None:
        where = f"in {_bin(venv)}" if venv is not None and not is_replaced else "on the path"
        where = "there" if os.sep in program else where
        raise StartFailed(
            f"there is no program {program!r} {where}",
            backend=backend,
            likely_cause=f"the engine is not installed: {_remedy(venv, install)}",
        )
    return found


def _check_venv(venv: str, *, backend: str, install: str | None) -> None:
    if not _bin(venv).is_dir():
        raise StartFailed(
            f"the virtual environment {venv} does not exist, or has no {_bin(venv).name}/",
            backend=backend,
            likely_cause=f"make it: python -m venv {venv} && {venv}/bin/{install or 'pip install the engine'}",
        )


def _remedy(venv: str | None, install: str | None) -> str:
    if venv is not None:
        return f"{venv}/bin/{install}" if install else f"install it with {venv}/bin/pip"
    if install:
        return f"{install}, or set `venv` to the environment that has it"
    return "install it, or set `venv` or `options.executable`"


def _bin(venv: str) -> Path:
    return Path(venv).expanduser().absolute() / "bin"
