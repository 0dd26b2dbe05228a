"""Whether two model directories hold the same weights, without reading gigabytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

SAMPLE_BYTES = 2**20
"""Read from either end of a file: all of most configs and tokenizers, the header and the last tensors of weights."""
IGNORED = (".cache", ".git")


def fingerprint(directory: Path) -> str:
    """SHA-256 over names, sizes and what was read of every file. Blocks for some milliseconds a file."""
    digest = hashlib.sha256()
    files = [path for path in directory.rglob("*") if path.is_file() and not _is_ignored(path.relative_to(directory))]
    for path in sorted(files):
        digest.update(f"{path.relative_to(directory).as_posix()}\0{path.stat().st_size}\0".encode())
        digest.update(_ends(path))
    return digest.hexdigest()


def _is_ignored(path: Path) -> bool:
    return any(part in IGNORED for part in path.parts)


def _ends(path: Path) -> bytes:
    with path.open("rb") as file:
        start = file.read(SAMPLE_BYTES)
        file.seek(max(len(start), path.stat().st_size - SAMPLE_BYTES))
        return start + file.read(SAMPLE_BYTES)
