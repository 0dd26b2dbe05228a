"""Frames over a Unix socket pair: four bytes of length (little endian), then that many bytes.

What a frame means is its owner's matter; here they are bytes. The child waits for them with `poll`, the parent
with the event loop.
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
from collections.abc import Callable
from typing import cast

_LENGTH = struct.Struct("<I")
_READ_BYTES = 1 << 18
_LONGEST_POLL_MS = 2**31 - 1
"""24 days: `poll` takes a C int."""


def framed(payload: bytes) -> bytes:
    return _LENGTH.pack(len(payload)) + payload


class FrameSplitter:
    """Puts frames together again from whatever pieces arrive."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        frames: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            end = start + _LENGTH.size + length
            if end > len(self._buffer):
                break
            frames.append(bytes(self._buffer[start + _LENGTH.size : end]))
            start = end
        del self._buffer[:start]
        return frames


class ChildChannel:
    """The child's end. Sending waits until the parent has read; receiving waits as long as it is told to."""

    def __init__(self, connection: socket.socket) -> None:
        self.is_closed = False
        """The parent has closed its end, or is gone."""
        self._connection = connection
        self._splitter = FrameSplitter()
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)

    def receive(self, timeout_s: float | None) -> list[bytes]:
        """All frames that have arrived, after waiting at most timeout_s for the first bytes; None waits for ever."""
        frames: list[bytes] = []
        timeout_ms = None if timeout_s is None else min(timeout_s * 1000, _LONGEST_POLL_MS)
        while not self.is_closed and self._poll.poll(timeout_ms):
            frames += self._splitter.feed(self._read())
            timeout_ms = 0
        return frames

    def send(self, payload: bytes) -> None:
        try:
            self._connection.sendall(framed(payload))
        except (BrokenPipeError, ConnectionResetError):
            self.is_closed = True

    def release(self) -> socket.socket:
        """The socket itself, for a child that waits with an event loop (`ParentChannel` serves either end)."""
        self._poll.unregister(self._connection)
        return self._connection

    def _read(self) -> bytes:
        try:
            data = self._connection.recv(_READ_BYTES)
        except ConnectionResetError:
            data = b""
        self.is_closed = not data
        return data


class ParentChannel(asyncio.Protocol):
    """The parent's end, on the event loop. `send` never waits: messages to a child are few and small."""

    def __init__(self, *, on_frame: Callable[[bytes], None], on_closed: Callable[[], None]) -> None:
        self._on_frame, self._on_closed = on_frame, on_closed
        self._splitter = FrameSplitter()
        self._transport: asyncio.Transport | None = None

    def send(self, payload: bytes) -> None:
        """Dropped when the child is gone: its owner hears of that through `on_closed`."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(framed(payload))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        for frame in self._splitter.feed(data):
            self._on_frame(frame)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._on_closed()
