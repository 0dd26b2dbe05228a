"""A loopback server that says exactly the bytes it is told to, for what no proper server would send."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def until(condition: Callable[[], object]) -> None:
    """Let the loop turn until it holds."""
    for _ in range(200_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it never came to hold")


class RawServer:
    def __init__(self, url: str) -> None:
        self.url = url
        self.num_connections = 0
        self.requests: list[bytes] = []
        self.writers: list[asyncio.StreamWriter] = []


@asynccontextmanager
async def raw_server(answer: bytes | Callable[[RawServer, asyncio.StreamWriter], Awaitable[None]], host="127.0.0.1"):
    """Answers every request (bodies by content-length) with these bytes, or as the function does."""
    told = RawServer("")

    handlers: list[asyncio.Task[None]] = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handlers.append(asyncio.current_task())
        told.num_connections += 1
        told.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
                )
                told.requests.append(head + await reader.readexactly(length))
                if isinstance(answer, bytes):
                    writer.write(answer)
                else:
                    await answer(told, writer)
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, host, 0)
    address = server.sockets[0].getsockname()
    told.url = f"http://[{address[0]}]:{address[1]}" if ":" in address[0] else f"http://{address[0]}:{address[1]}"
    try:
        yield told
    finally:
        server.close()
        for writer in told.writers:
            writer.transport.abort()
        await until(lambda: all(task.done() for task in handlers))
