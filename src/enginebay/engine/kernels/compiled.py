"""The folder of compiled kernels: one folder for each version, and what nobody has used for long is removed.

A version is another source, torch or CPU, so that every update leaves one behind. Loading marks a library as used;
the lock is the folder's own, and the system frees it when its holder dies.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_log = logging.getLogger(__name__)

UNUSED_AFTER_S = 30 * 24 * 3600.0


@contextmanager
def nothing_is_removed(folder: Path) -> Iterator[None]:
    """Hold this from looking for a library until it is loaded; afterwards its file is not needed any more.

    Many may. Makes the folder; raises OSError where that cannot be.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder, fcntl.LOCK_SH):
        yield


def is_there(library: Path) -> bool:
    """Whether it can be loaded; it counts as used now."""
    try:
        os.utime(library)
    except FileNotFoundError:
        return False
    except OSError:
        return library.exists()  # read-only, or another user's: it serves, and is theirs to remove
    return True


def remove_unused(folder: Path, *, now: float) -> list[str]:
    """Remove versions, and what a killed compiler has left, of which nothing was used for `UNUSED_AFTER_S`.

    now: in seconds since the epoch, like the times of files. Removes nothing while somebody looks for a library, or
    where the folder cannot be locked or read: there is always another time. Returns what was removed.
    """
    try:
        with _locked(folder, fcntl.LOCK_EX | fcntl.LOCK_NB) as is_locked:
            return _removed(folder, now=now) if is_locked else []
    except OSError as error:
        _log.info("compiled kernels that are not used stay: %s", error)
        return []


def _removed(folder: Path, *, now: float) -> list[str]:
    unused = [version for version in _versions(folder) if now - _used_at(version) > UNUSED_AFTER_S]
    for version in unused:
        shutil.rmtree(version, ignore_errors=True)
    return [version.name for version in unused if not version.exists()]


@contextmanager
def _locked(folder: Path, operation: int) -> Iterator[bool]:
    """Whether it is: some file systems cannot lock a folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, operation)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def _versions(folder: Path) -> list[Path]:
    return [entry for entry in folder.iterdir() if entry.is_dir() and not entry.is_symlink()]


def _used_at(version: Path) -> float:
    """The latest of it and its files; what vanishes meanwhile is somebody else's to remove."""
    try:
        return max(path.stat().st_mtime for path in (version, *version.iterdir()))
    except OSError:
        return float("inf")
