"""The files of a journal: one writer each, who holds its lock for as long as it lives.

A lock dies with its process, also after `kill -9`: a segment that can be locked has nobody left to write to it.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from enginebay.gateway.ledger.entry import LINE_END, Entry, decode_entry

SUFFIX, DAMAGED_SUFFIX = ".journal", ".damaged"
READ_BYTES = 64 * 1024
_FILE_MODE = 0o600  # whoever reads it knows what every client did and paid


@dataclass(frozen=True, slots=True)
class PlacedEntry:
    """An entry and its place, by which it is known: it is stored once, however often it is read."""

    segment: str
    position: int
    """Of its first byte."""
    entry: Entry


@dataclass(frozen=True, slots=True)
class Batch:
    """Successive whole lines of one segment."""

    entries: list[PlacedEntry]
    num_damaged: int
    end: int


class Segment:
    """One file, read from its beginning on; what is read is never changed, only added to."""

    def __init__(self, path: Path, fd: int, *, is_ours: bool) -> None:
        """fd: open for reading and appending, and locked; owned from here on. is_ours: this process wrote it."""
        self.path, self.fd, self.is_ours = path, fd, is_ours
        self.num_damaged = 0
        """Lines that could not be read, of those that were advanced over."""
        self._position = 0

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def position(self) -> int:
        """Of the first byte that is not stored."""
        return self._position

    @property
    def num_unread_bytes(self) -> int:
        return os.fstat(self.fd).st_size - self._position

    def take_back(self, position: int) -> None:
        """It was this process's before, which had stored it until there."""
        self.is_ours, self._position = True, position

    def read(self) -> Batch | None:
        """Whole lines from where the last `advance` ended; None where there are none."""
        size = READ_BYTES
        while True:
            data = os.pread(self.fd, size, self._position)
            length = data.rfind(LINE_END) + 1
            if length or len(data) < size:
                break
            size *= 2  # a line longer than that: damage, or the work of some other program
        return self._batch(data[:length]) if length else None

    def advance(self, batch: Batch) -> None:
        """The batch is stored."""
        self._position = batch.end
        self.num_damaged += batch.num_damaged

    def _batch(self, data: bytes) -> Batch:
        entries: list[PlacedEntry] = []
        num_damaged, position = 0, self._position
        for line in data.split(LINE_END)[:-1]:
            entry = decode_entry(line)
            if entry is None:
                num_damaged += 1
            else:
                entries.append(PlacedEntry(self.name, position, entry))
            position += len(line) + len(LINE_END)
        return Batch(entries, num_damaged, position)

    def remove(self) -> None:
        """All of it being stored. One with damaged lines is kept under another name, for people. Raises OSError."""
        if self.num_damaged:
            self.path.rename(self.path.with_suffix(DAMAGED_SUFFIX))
        else:
            self.path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self.fd)


def make_segment(directory: Path, *, now_unix: float) -> Segment:
    """A new one, locked before it can be seen by anybody under its name. Raises OSError."""
    name = f"{round(now_unix * 1000):013d}-{secrets.token_hex(8)}"  # the older sorts before the younger
    hidden = directory / f".{name}"
    fd = os.open(hidden, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, _FILE_MODE)
    fcntl.flock(fd, fcntl.LOCK_EX)
    path = directory / f"{name}{SUFFIX}"
    hidden.rename(path)
    _sync_directory(directory)
    return Segment(path, fd, is_ours=True)


def orphaned_segments(directory: Path) -> Iterator[Segment]:
    """Locked for us: those whose writers ended without having them stored, oldest first. Raises OSError."""
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        segment = _locked(path)
        if segment is not None:
            yield segment


def _locked(path: Path) -> Segment | None:
    """None where its writer lives, or another gateway is at it already."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_APPEND)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    if not os.fstat(fd).st_nlink:  # stored and deleted by another between our open and our lock
        os.close(fd)
        return None
    return Segment(path, fd, is_ours=False)


def _sync_directory(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
