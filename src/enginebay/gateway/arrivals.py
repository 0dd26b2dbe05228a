"""The chunks of one or several streams, in the order in which they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from enginebay.types import GenerationChunk

ChunkStream = AsyncGenerator[GenerationChunk, None]
NUM_WAITING_PER_STREAM = 4
"""Chunks that may wait for a slow reader before their streams are held back."""


def in_order_of_arrival(
    streams: Sequence[ChunkStream],
) -> OfOne | AsyncGenerator[tuple[int, GenerationChunk], None]:
    """Yields (index of the stream, chunk). The first error of a stream ends all of them. Close it (`aclosing`)."""
    return OfOne(streams[0]) if len(streams) == 1 else _of_several(streams)


class OfOne:
    """No generator: it stands in the way of every chunk of nearly every stream."""

    __slots__ = ("_stream",)

    def __init__(self, stream: ChunkStream) -> None:
        self._stream = stream

    def __aiter__(self) -> OfOne:
        return self

    async def __anext__(self) -> tuple[int, GenerationChunk]:
        return 0, await self._stream.__anext__()

    async def aclose(self) -> None:
        await self._stream.aclose()


async def _of_several(streams: Sequence[ChunkStream]) -> AsyncGenerator[tuple[int, GenerationChunk], None]:
    """Each stream is consumed by one task of its own, which is cancelled and awaited before this ends."""
    arrived: Arrived = asyncio.Queue(NUM_WAITING_PER_STREAM * len(streams))
    tasks = [asyncio.create_task(_consume(stream, index, arrived)) for index, stream in enumerate(streams)]
    num_open = len(streams)
    try:
        while num_open:
            index, item = await arrived.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                num_open -= 1
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


Arrived = asyncio.Queue[tuple[int, GenerationChunk | Exception | None]]
"""A chunk, the error that ended its stream, or None for a stream that is through."""


async def _consume(stream: ChunkStream, index: int, arrived: Arrived) -> None:
    try:
        async with aclosing(stream):
            async for chunk in stream:
                await arrived.put((index, chunk))
    except Exception as error:  # noqa: BLE001 - raised by the consumer of the queue
        await arrived.put((index, error))
    else:
        await arrived.put((index, None))
