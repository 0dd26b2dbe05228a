"""The chunks of one request, on the parent's event loop, as the engine's process sends them."""

from __future__ import annotations

import asyncio
from collections import deque

from enginebay.errors import EngineBayError
from enginebay.types import GenerationChunk


class ChunkStream:
    """One consumer: `next` until it returns the last chunk or raises."""

    def __init__(self) -> None:
        self._arrived: deque[GenerationChunk] = deque()
        self._error: EngineBayError | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def next(self) -> GenerationChunk:
        """Raises the stream's error behind all that arrived before it."""
        while not self._arrived:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._arrived.popleft()

    def push(self, chunk: GenerationChunk) -> None:
        self._arrived.append(chunk)
        self._wake()

    def fail(self, error: EngineBayError) -> None:
        self._error = self._error or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
