"""Result files appear whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from enginebay.errors import LoadTestError

Saved = TypeVar("Saved", bound=msgspec.Struct)


def save_struct(struct: msgspec.Struct, path: Path) -> None:
    write_atomically(path, msgspec.json.format(msgspec.json.encode(struct), indent=2) + b"\n")


def load_struct(path: Path, struct: type[Saved], *, what: str) -> Saved:
    """Raises LoadTestError for a file that cannot be read or is not `what`."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=struct)
    except OSError as error:
        raise LoadTestError(f"{path}: cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise LoadTestError(f"{path}: is not {what}: {error}") from error


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
