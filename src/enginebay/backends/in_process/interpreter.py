"""The interpreter of a worker and what it may import of ours: two packages, never our site-packages."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from enginebay.errors import StartFailed


def python_of(venv: str | None) -> str:
    """The entry's own interpreter, else ours. Raises StartFailed for a venv without one."""
    if venv is None:
        return sys.executable
    python = Path(venv).expanduser().absolute() / "bin" / "python"
    if not python.exists():
        raise StartFailed(f"{venv} is no virtual environment: there is no {python}", likely_cause="is its venv there?")
    return str(python)


class PackageFolder:
    """A private folder of links, the PYTHONPATH of one worker. `remove` is idempotent."""

    def __init__(self, packages: Sequence[str]) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="enginebay-worker-"))
        for package in ("enginebay", *packages):
            (self._folder / package).symlink_to(_directory_of(package), target_is_directory=True)

    def environment(self, *, is_our_interpreter: bool) -> dict[str, str]:
        """Of our own interpreter the PYTHONPATH we were given still counts: the engine may be on it."""
        inherited = os.environ.get("PYTHONPATH") if is_our_interpreter else None
        path = os.pathsep.join([str(self._folder), *([inherited] if inherited else [])])
        return {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}

    @property
    def path(self) -> Path:
        return self._folder

    def remove(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _directory_of(package: str) -> Path:
    spec = find_spec(package)
    locations = spec.submodule_search_locations if spec is not None else None
    assert locations, f"{package} is a package of this interpreter"
    return Path(next(iter(locations))).absolute()
