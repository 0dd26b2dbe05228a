"""A server that sends something malformed and then keeps the stream open is found out at once."""

from __future__ import annotations

import asyncio

import pytest
from loadtest_fakes import planned

from enginebay.clock import MonotonicClock
from enginebay.loadtest.plan import Load
from enginebay.loadtest.records import Record
from enginebay.loadtest.runner import Runner
from enginebay.plugins import get_backend

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
WHOLE = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
MODELS = b'{"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "nobody"}]}'
GOOD = b'data: {"id": "1", "choices": [{"index": 0, "text": "word", "finish_reason": null}]}\n\n'
TIMEOUT_S = 30.0


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, event: bytes) -> None:
    """Who asks is told the model; an answer has a good event, a bad one, and never an end."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(
                (int(line[15:]) for line in head.lower().splitlines() if line.startswith(b"content-length:")), 0
            )
            await reader.readexactly(length)
            if head.startswith(b"POST /v1/completions "):
                writer.write(HEAD + chunk(GOOD) + chunk(event))
            else:
                found = b"200 OK" if head.startswith(b"GET") else b"404 Not Found"
                writer.write(WHOLE % (found, len(MODELS), MODELS))
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


@pytest.mark.parametrize(
    "event",
    [b"data: {no JSON\n\n", b'data: {"error": {"message": "out of memory", "type": "server_error", "code": 500}}\n\n'],
    ids=["malformed", "an error"],
)
def test_a_bad_event_in_an_open_stream_fails_its_request_at_once(event: bytes) -> None:
    records: list[Record] = []

    async def main() -> None:
        server = await asyncio.start_server(lambda reader, writer: answer(reader, writer, event), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with server, get_backend("openai_http", url=url, model="m", options={"dialect": "vllm"}) as backend:
            runner = Runner(backend, clock=MonotonicClock(), on_record=records.append, request_timeout_s=TIMEOUT_S)
            await runner.run([planned(0)], Load(users=1))

    asyncio.run(main())
    [record] = records
    assert record.ended_at < TIMEOUT_S / 3
    assert record.error_class == "UpstreamError"
    assert record.text == "word"
