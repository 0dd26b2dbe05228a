"""Where each call's entry goes first: one `write()` to a file of our own, before the last byte of the answer.

After `kill -9` no answered call is missing, since the kernel has what was written. A power cut may cost what was
written since the last `sync`. Where a write fails (a full disk), entries wait in memory and are written when there is
room again; more than `MAX_KEPT` are lost and counted.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from enginebay.errors import ConfigError
from enginebay.gateway.ledger.entry import Entry, encode_entry
from enginebay.gateway.ledger.segments import Segment, make_segment, orphaned_segments

MAX_SEGMENT_BYTES = 8 * 2**20
MAX_KEPT = 50_000
"""Entries in memory while nothing can be written: about 25 MB."""
KEPT_AT_ONCE = 16
"""So many of them are written beside a new one: faster than they come, and no stall of the event loop."""
_DIRECTORY_MODE = 0o700


class Journal:
    """`append` is for the event loop; everything else blocks, and is for one thread."""

    def __init__(
        self,
        directory: Path,
        *,
        max_segment_bytes: int = MAX_SEGMENT_BYTES,
        max_kept: int = MAX_KEPT,
        write: Callable[[int, bytes], int] = os.write,
        unix_now: Callable[[], float] = time.time,
    ) -> None:
        """directory: of this gateway's machine; several gateways may share it. Raises ConfigError."""
        self._directory, self._max_segment_bytes = directory, max_segment_bytes
        self._write, self._unix_now = write, unix_now
        self._lock = threading.Lock()  # held for a few writes, or for exchanging a few numbers
        self._kept: deque[bytes] = deque()
        self._max_kept = max_kept
        self.num_appended = 0
        self.num_lost = 0
        self._is_closed = False
        try:
            directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
            self._segment = make_segment(directory, now_unix=unix_now())
        except OSError as error:
            problem = f"the journal {directory} cannot be written: {error.strerror}"
            raise ConfigError(problem, path="gateway.ledger.journal", expected="a directory to write in") from error
        self._fd, self._size, self._synced_size = self._segment.fd, 0, 0
        self._has_fragment = False

    @property
    def num_kept(self) -> int:
        """Entries that are in memory alone."""
        return len(self._kept)

    def append(self, entry: Entry) -> None:
        """Never raises. After `close` it is lost."""
        line = encode_entry(entry)
        with self._lock:
            self.num_appended += 1
            if (self._kept and not self._write_kept()) or not self._write_line(line):
                self._keep(line)

    def own_segment(self) -> Segment:
        """The one that is written to."""
        return self._segment

    def retry(self) -> None:
        """Write what waits in memory, as far as it can be, and let `append` in between."""
        is_writing = True
        while self._kept and is_writing:
            with self._lock:
                num_before = len(self._kept)
                self._write_kept()
                is_writing = len(self._kept) < num_before

    def sync(self) -> None:
        """What was appended before survives a power cut from here on. Raises OSError."""
        size = self._size
        if size > self._synced_size:
            os.fdatasync(self._segment.fd)
            self._synced_size = size

    def rotated(self) -> Segment | None:
        """The segment that was full, synced and never written to again; None while there is room. Raises OSError."""
        if self._size < self._max_segment_bytes or self._is_closed:
            return None
        successor = make_segment(self._directory, now_unix=self._unix_now())
        with self._lock:
            full, self._segment = self._segment, successor
            self._fd, self._size, self._synced_size = successor.fd, 0, 0
            self._has_fragment = False
        os.fdatasync(full.fd)
        return full

    def orphans(self, at_most: int) -> list[Segment]:
        """What gateways left behind that are no more, the oldest; ours from here on. Raises OSError."""
        return list(islice(orphaned_segments(self._directory), at_most))

    def close(self) -> None:
        """Nothing more is written; the segment is its reader's to close. What is still in memory is lost."""
        self.retry()
        with self._lock:
            self._is_closed, self._fd = True, -1  # the number may soon be some other file's
            self.num_lost += len(self._kept)
            self._kept.clear()

    def _write_kept(self) -> bool:
        """Some of it; whether nothing is left."""
        for _ in range(min(KEPT_AT_ONCE, len(self._kept))):
            if not self._write_line(self._kept[0]):
                return False
            self._kept.popleft()
        return not self._kept

    def _write_line(self, line: bytes) -> bool:
        """Whether all of it is in the file. The piece that a failed write left behind is cut off before the next."""
        try:
            if self._has_fragment:
                os.ftruncate(self._fd, self._size)
                self._has_fragment = False
            num_written = self._write(self._fd, line)
        except OSError:
            return False
        self._has_fragment = num_written < len(line)
        if not self._has_fragment:
            self._size += num_written
        return not self._has_fragment

    def _keep(self, line: bytes) -> None:
        if len(self._kept) < self._max_kept and not self._is_closed:
            self._kept.append(line)
        else:
            self.num_lost += 1
