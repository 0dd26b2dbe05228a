"""SHA-256 of files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from enginebay.errors import ChecksumMismatch


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str) -> None:
    """Raises ChecksumMismatch and leaves the file in place to be looked at; the next pull replaces it."""
    actual = sha256_of(path)
    if actual != expected:
        raise ChecksumMismatch(path=str(path), expected=expected, actual=actual)
