"""Result files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from enginebay.errors import LoadTestError


def write_atomically(path: Path, content: bytes) -> None:
    """A reader sees the old file or the new one, also when this process is killed half-way."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise LoadTestError(f"{path}: cannot be written: {error.strerror}") from error
