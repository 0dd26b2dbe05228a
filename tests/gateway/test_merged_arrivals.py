"""Streams side by side, and chunks put together."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from enginebay.gateway.arrivals import in_order_of_arrival
from enginebay.gateway.coalesce import Coalescer, merged
from enginebay.types import FinishReason, GenerationChunk, ToolCallDelta, Usage


def chunk(text: str, **fields: object) -> GenerationChunk:
    return GenerationChunk(text=text, received_at=0.0, **{"num_tokens": 1, "token_ids": (1,), **fields})


async def words(text: str, closed: list[str], *, fails: bool = False) -> AsyncGenerator[GenerationChunk, None]:
    try:
        for word in text.split():
            await asyncio.sleep(0)
            yield chunk(word)
        if fails:
            raise LookupError(text)
    finally:
        closed.append(text)


def test_all_chunks_of_several_streams_come_through() -> None:
    async def main() -> None:
        closed: list[str] = []
        streams = [words("a b c", closed), words("d", closed), words("e f", closed)]
        async with aclosing(in_order_of_arrival(streams)) as arrivals:
            seen = [(index, piece.text) async for index, piece in arrivals]
        assert sorted(seen) == [(0, "a"), (0, "b"), (0, "c"), (1, "d"), (2, "e"), (2, "f")]
        assert sorted(closed) == ["a b c", "d", "e f"]

    asyncio.run(main())


@pytest.mark.parametrize("num_streams", [1, 3])
def test_leaving_early_ends_every_stream(num_streams: int) -> None:
    async def main() -> None:
        closed: list[str] = []
        streams = [words("a b c d e f g h i j k", closed) for _ in range(num_streams)]
        async with aclosing(in_order_of_arrival(streams)) as arrivals:
            await arrivals.__anext__()
        assert len(closed) == num_streams
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_the_first_error_ends_every_stream() -> None:
    async def main() -> None:
        closed: list[str] = []
        streams = [words("a b c d e f g", closed), words("x", closed, fails=True)]

        async def consume() -> None:
            async with aclosing(in_order_of_arrival(streams)) as arrivals:
                async for _ in arrivals:
                    pass

        with pytest.raises(LookupError):
            await consume()
        assert len(closed) == 2
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_merged_chunks_carry_everything_once() -> None:
    calls = [ToolCallDelta(index=0, id="c", name="f", arguments="{"), ToolCallDelta(index=0, arguments="}")]
    pieces = [
        chunk("a", tool_call_deltas=(calls[0],)),
        chunk("b", token_ids=(2, 3), num_tokens=2, tool_call_deltas=(calls[1],)),
        chunk("c", usage=Usage(1, 4), finish_reason=FinishReason.STOP, stop_reason="x"),
    ]
    whole = merged(pieces)
    assert (whole.text, whole.token_ids, whole.num_tokens) == ("abc", (1, 2, 3, 1), 4)
    assert whole.tool_call_deltas == (ToolCallDelta(index=0, id="c", name="f", arguments="{}"),)
    assert (whole.finish_reason, whole.stop_reason, whole.usage) == (FinishReason.STOP, "x", Usage(1, 4))


def test_what_one_chunk_does_not_tell_the_whole_does_not() -> None:
    whole = merged([chunk("a"), chunk("b", token_ids=None, num_tokens=None)])
    assert (whole.token_ids, whole.num_tokens) == (None, None)


def test_a_coalescer_delays_neither_the_first_token_nor_the_last() -> None:
    coalescer = Coalescer(3)
    texts = [coalescer.add(chunk(text)) for text in "abcdef"]
    assert [ready.text if ready else None for ready in texts] == ["a", None, None, "bcd", None, None]
    last = coalescer.add(chunk("g", finish_reason=FinishReason.LENGTH, usage=Usage(1, 7)))
    assert last is not None
    assert last.text == "efg"
