"""How a pull tells what it is doing. The command line draws it; everybody else may ignore it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class PullProgress:
    """One step of a pull. `completed` grows within a step and may start over when a download is tried again."""

    step: str
    completed: int = 0
    total: int | None = None
    """None while it is not known."""
    unit: Literal["bytes", "tensors", "files"] = "files"


ProgressCallback = Callable[[PullProgress], None]


def ignore_progress(progress: PullProgress) -> None:
    pass
