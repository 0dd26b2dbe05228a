"""The chunks of one or several streams, in the order in which they arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from enginebay.types import GenerationChunk

ChunkStream = AsyncGenerator[GenerationChunk, None]
Arrivals = AsyncGenerator[tuple[int, GenerationChunk], None]
NUM_WAITING_PER_STREAM = 4
"""Chunks that may wait for a slow reader before their streams are held back."""


def in_order_of_arrival(streams: Sequence[ChunkStream]) -> Arrivals:
    """Yields (index of the stream, chunk). The first error of a stream ends all of them. Close it (`aclosing`)."""
    return _of_one(streams[0]) if len(streams) == 1 else _of_several(streams)


async def _of_one(stream: ChunkStream) -> Arrivals:
    async with aclosing(stream):
        async for chunk in stream:
            yield 0, chunk


async def _of_several(streams: Sequence[ChunkStream]) -> Arrivals:
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
