"""The last lines that a child process wrote, kept for error messages; all of them in a file where asked."""

from __future__ import annotations

import asyncio
from collections import deque
from pathlib import Path

MAX_LINES = 200
MAX_LINE_LENGTH = 2000
_READ_BYTES = 1 << 16


class LogRing:
    def __init__(self, log_file: Path | None = None) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._rest = b""
        self._log_file = log_file

    def tail(self, num_lines: int = 20) -> list[str]:
        return [*self._lines][-num_lines:]

    async def collect(self, stream: asyncio.StreamReader) -> None:
        """Until the stream ends. A line without an end is cut where it grows too long."""
        file = self._log_file.open("ab", buffering=0) if self._log_file else None
        try:
            while data := await stream.read(_READ_BYTES):
                if file:
                    file.write(data)
                self._take(data)
            self._take(b"\n" if self._rest else b"")
        finally:
            if file:
                file.close()

    def _take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_LENGTH:
            lines.append(self._rest)
            self._rest = b""
        for line in lines:
            text = line.decode("utf-8", errors="replace").rstrip()[:MAX_LINE_LENGTH]
            if text:
                self._lines.append(text)
