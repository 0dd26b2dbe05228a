"""The processes that a test starts. Beside them may stand one that outlives tests: multiprocessing has such."""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import pytest


class ChildProcesses:
    def __init__(self) -> None:
        self._earlier = set(psutil.Process().children(recursive=True))

    def started(self) -> list[psutil.Process]:
        """Since then, and still there."""
        return [child for child in psutil.Process().children(recursive=True) if child not in self._earlier]


@pytest.fixture(autouse=True)
def child_processes() -> Iterator[ChildProcesses]:
    """Of each test of the module that imports this; none may be left."""
    children = ChildProcesses()
    yield children
    assert not children.started()
