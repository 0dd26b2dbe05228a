"""As many requests as a server can answer, from a client that reads nothing but the end of each answer."""

from __future__ import annotations

import asyncio
import time
from typing import cast
from urllib.parse import urlsplit

from enginebay.loadtest.self_check.answers import END


async def server_requests_per_s(url: str, body: bytes, *, num_users: int, duration_s: float) -> float:
    """Answers must end with the last chunk of HTTP's chunked encoding, and with nothing else that looks like it."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    host, port = address.hostname, address.port
    head = f"POST /v1/completions HTTP/1.1\r\nhost: {address.netloc}\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    loop = asyncio.get_running_loop()
    users = [(await loop.create_connection(lambda: _User(head + body), host, port))[1] for _ in range(num_users)]
    began_at = time.monotonic()
    for user in users:
        user.ask()
    await asyncio.sleep(duration_s)
    num_answers, elapsed_s = sum(user.num_answers for user in users), time.monotonic() - began_at
    for user in users:
        user.leave()
    return num_answers / elapsed_s


class _User(asyncio.Protocol):
    def __init__(self, request: bytes) -> None:
        self.num_answers = 0
        self._request = request
        self._transport: asyncio.Transport | None = None

    def ask(self) -> None:
        if self._transport is not None:
            self._transport.write(self._request)

    def leave(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if data.endswith(END):
            self.num_answers += 1
            self.ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
