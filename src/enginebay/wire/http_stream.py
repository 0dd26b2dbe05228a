"""One answer while it arrives: status and headers, then pieces of the body with the instants they arrived at."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Protocol

from enginebay.errors import EngineBayError, UpstreamError
from enginebay.wire.http_types import HttpResponse

Piece = tuple[bytes, float]
"""Bytes of the body, and when they arrived."""


LAST_EVENT = b"data: [DONE]\n\n"
"""Of a stream of the OpenAI API; nothing follows it that anybody wants."""


class Source(Protocol):
    """The connection, as its stream sees it."""

    def abort(self) -> None: ...

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def end_soon(self) -> None:
        """Close unless the answer ends within moments."""
        ...


class HttpStream:
    """Iterate it to the end, or call `abort()`: that closes the socket, which is how a server learns of a cancel.

    It has one consumer. A consumer that is cancelled while it waits here has aborted the stream.
    """

    __slots__ = (
        "_error",
        "_is_collecting",
        "_is_complete",
        "_is_over",
        "_is_paused",
        "_is_released",
        "_max_buffered_bytes",
        "_num_buffered_bytes",
        "_pieces",
        "_source",
        "_waiter",
        "headers",
        "received_at",
        "status",
    )

    def __init__(self, *, max_buffered_bytes: int) -> None:
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.received_at = 0.0
        """When the newest byte arrived."""
        self._max_buffered_bytes = max_buffered_bytes
        self._num_buffered_bytes = 0
        self._pieces: deque[Piece] = deque()
        self._source: Source | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: EngineBayError | None = None
        self._is_complete = False
        self._is_collecting = False
        self._is_over = False
        self._is_paused = False
        self._is_released = False

    # ---------------------------------------------------------------- for the consumer

    async def wait_for_head(self) -> None:
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._wait()

    def __aiter__(self) -> HttpStream:
        return self

    async def __anext__(self) -> Piece:
        while not self._pieces:
            if self._error is not None:
                raise self._error
            if self._is_complete:
                raise StopAsyncIteration
            await self._wait()
        piece = self._pieces.popleft()
        self._num_buffered_bytes -= len(piece[0])
        if self._is_paused and self._num_buffered_bytes <= self._max_buffered_bytes // 2 and self._source is not None:
            self._is_paused = False
            self._source.resume()
        return piece

    async def read(self, max_bytes: int) -> HttpResponse:
        """The whole answer. Raises UpstreamError, and aborts, when its body is longer."""
        pieces: list[bytes] = []
        num_bytes = 0
        async for data, _ in self:
            num_bytes += len(data)
            if num_bytes > max_bytes:
                self.abort()
                raise UpstreamError(f"the answer is longer than {max_bytes} bytes", status=self.status)
            pieces.append(data)
        return HttpResponse(self.status, self.headers, b"".join(pieces), self.received_at)

    async def collect(self, max_bytes: int) -> None:
        """Return when the answer has ended, its pieces not yet taken; nobody wakes for any of them before.

        To be followed by `take` and `abort` or `release`, also after an error or a cancellation. Raises UpstreamError
        when the answer is longer.
        """
        self._is_collecting = True
        self._max_buffered_bytes = max_bytes
        has_last_event = bool(self._pieces) and self._pieces[-1][0].endswith(LAST_EVENT)
        self._is_over = has_last_event or self._num_buffered_bytes > max_bytes
        if self._is_paused and self._source is not None:
            self._is_paused = False
            self._source.resume()
        while not (self._is_complete or self._is_over):
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        if self._num_buffered_bytes > max_bytes:  # it was told so, and nobody has taken anything
            raise UpstreamError(f"the answer is longer than {max_bytes} bytes", status=self.status)

    def take_first(self) -> Piece | None:
        """The earliest of what has been collected so far; None where there is nothing new."""
        return self._pieces.popleft() if self._pieces else None

    def give_up(self, error: EngineBayError) -> None:
        """Whoever looked at the first pieces knows that no answer comes of it: `collect` raises this, at once."""
        self._error = error
        self._wake()

    def take(self) -> list[Piece]:
        """What has been collected."""
        pieces = list(self._pieces)
        self._pieces.clear()
        self._num_buffered_bytes = 0
        return pieces

    def abort(self) -> None:
        """Synchronous and idempotent; nothing happens after the end of the answer."""
        source, self._source = self._source, None
        self._pieces.clear()
        if source is not None:
            source.abort()

    def release(self) -> None:
        """Want no more of an answer that is as good as over: its connection is kept if the rest comes soon."""
        self._is_released = True
        self._pieces.clear()
        source, self._source = self._source, None
        if source is not None:
            source.end_soon()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._waiter = None

    @property
    def num_buffered_bytes(self) -> int:
        """Arrived and not yet taken."""
        return self._num_buffered_bytes

    # ---------------------------------------------------------------- for the connection

    def attach(self, source: Source) -> None:
        self._source = source

    @property
    def is_paused(self) -> bool:
        return self._is_paused

    def head_arrived(self, status: int, headers: Mapping[str, str]) -> None:
        self.status, self.headers = status, headers
        self._wake()

    def piece_arrived(self, data: bytes, received_at: float) -> None:
        if self._is_released:
            return
        self._pieces.append((data, received_at))
        self._num_buffered_bytes += len(data)
        if self._is_collecting:
            if data.endswith(LAST_EVENT) or self._num_buffered_bytes > self._max_buffered_bytes:
                self._is_over = True
                self._wake()
            return
        if self._num_buffered_bytes > self._max_buffered_bytes and not self._is_paused and self._source is not None:
            self._is_paused = True
            self._source.pause()
        self._wake()

    def completed(self) -> None:
        self._is_complete = True
        self._source = None
        self._wake()

    def failed(self, error: EngineBayError) -> None:
        """Pieces that arrived before are still delivered first."""
        self._error = error
        self._source = None
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
