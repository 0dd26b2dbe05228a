"""The last lines that a child process wrote, kept for error messages; all of them in a file where asked."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from pathlib import Path
from typing import IO

from enginebay.backends.worker.start_failure import TellingLines
from enginebay.errors import ConfigError

MAX_LINES = 200
MAX_LINE_LENGTH = 2000
"""Of a longer line the beginning and the end are kept, half of this each."""
_READ_BYTES = 1 << 16


def check_log_file(log_file: Path | None) -> None:
    """Before anything is started. Raises ConfigError for one that cannot be written to."""
    if log_file is None:
        return
    try:
        log_file.open("ab").close()
    except OSError as error:
        raise ConfigError(f"{log_file} cannot be written to: {error.strerror}", path="options.log_file") from error


class LogRing:
    """Single use: `open_pipe` for a child's output, `collect` until it has ended."""

    def __init__(self, log_file: Path | None = None) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_LINES)
        self._rest = b""
        self._beginning: bytes | None = None
        """Of a line that has grown too long."""
        self.telling = TellingLines()
        """What tells why it fails, though it may no longer be among the last lines."""
        self._log_file = log_file
        self._stream: asyncio.StreamReader | None = None
        self._transport: asyncio.BaseTransport | None = None

    def tail(self, num_lines: int = 20) -> list[str]:
        return [*self._lines][-num_lines:]

    async def open_pipe(self) -> int:
        """Return the descriptor to write to. The caller closes it when the child has it.

        Not asyncio's own PIPE: with that, Process.wait() waits for every process that holds the pipe.
        """
        read_end, write_end = os.pipe()
        stream = self._stream = asyncio.StreamReader()
        self._transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(read_end, "rb", buffering=0)
        )
        return write_end

    async def collect(self) -> None:
        """Until every process that holds the pipe has ended. A line that grows too long loses its middle."""
        assert self._stream is not None, "open_pipe comes first"
        file = self._log_file.open("ab", buffering=0) if self._log_file else None
        try:
            while data := await self._stream.read(_READ_BYTES):
                if file and not self._write(file, data):
                    file = None
                self._take(data)
            self._take(b"\n" if self._rest else b"")
        finally:
            self.close()
            if file:
                file.close()

    def _write(self, file: IO[bytes], data: bytes) -> bool:
        """A full disk costs the file and no more: a log that nobody reads would stop the child."""
        try:
            file.write(data)
        except OSError as error:
            file.close()
            self._lines.append(f"[{self._log_file} ends here: {error.strerror}]")
            return False
        return True

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _take(self, data: bytes) -> None:
        *ended, rest = data.split(b"\n")
        for part in ended:
            self._continue_line(part)
            self._end_line()
        self._continue_line(rest)

    def _continue_line(self, part: bytes) -> None:
        line = self._rest + part
        if len(line) > MAX_LINE_LENGTH:
            half = MAX_LINE_LENGTH // 2
            if self._beginning is None:
                self._beginning, line = line[:half], line[half:]
            line = line[-half:]
        self._rest = line

    def _end_line(self) -> None:
        line = self._rest if self._beginning is None else self._beginning + b" [...] " + self._rest
        self._rest, self._beginning = b"", None
        if text := line.decode("utf-8", errors="replace").rstrip():
            self._lines.append(text)
            self.telling.look_at(text)
