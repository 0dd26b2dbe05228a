"""Requests of which no two are alike, from many addresses, by as cheap a client as will do."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator, Sequence
from itertools import count, islice

NUM_ADDRESSES = 500
NUM_PROMPT_CHARACTERS = 4_000
"""Fifteen blocks of the prefix index: it is turned over thirty times by 200,000 requests."""
REQUESTS_OF_CONNECTION = 50
"""Then it is closed, and the next one has another address."""
PATH = "/v1/completions"


class Traffic:
    """The next request, and the status that its answer must have."""

    def __init__(self, port: int, keys: Sequence[str]) -> None:
        self.port = port
        self._keys = keys
        self._serials = count()
        self._connections = count()

    def next_address(self) -> str:
        """Of the loopback network."""
        serial = next(self._connections) % NUM_ADDRESSES
        return f"127.1.{serial // 250}.{serial % 250 + 1}"

    def next_request(self) -> tuple[bytes, int]:
        serial = next(self._serials)
        key = self._keys[serial % len(self._keys)]
        words = f"{serial} is the number of this prompt. ".encode()
        prompt = (words * (NUM_PROMPT_CHARACTERS // len(words) + 1))[:NUM_PROMPT_CHARACTERS]
        fields, status = b"", 200
        match serial % 100:
            case 13:
                key, status = f"{key[:-8]}{serial:08d}", 401
            case 57:
                fields, status = b',"unknown_%d":1' % serial, 400
            case one if one % 10 == 5:
                fields = b',"stream":true'
            case _:
                pass
        body = b'{"model":"m","max_tokens":16,"prompt":"%b"%b}' % (prompt, fields)
        head = f"POST {PATH} HTTP/1.1\r\nhost: m\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n"
        return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body, status


async def send_all(traffic: Traffic, num_requests: int, *, num_connections: int) -> list[bytes]:
    """The answers that have another status than they should have."""
    left = iter(range(num_requests))
    wrong: list[bytes] = []
    await asyncio.gather(*(_send_some(traffic, left, wrong) for _ in range(num_connections)))
    return wrong


async def _send_some(traffic: Traffic, left: Iterator[int], wrong: list[bytes]) -> None:
    while some := [*islice(left, REQUESTS_OF_CONNECTION)]:
        connection = await _connect(traffic)
        try:
            for _ in some:
                request, status = traffic.next_request()
                answer = await connection.exchange(request)
                if not answer.startswith(b"HTTP/1.1 %d" % status):
                    wrong.append(answer)
        finally:
            connection.close()


async def _connect(traffic: Traffic) -> Connection:
    loop = asyncio.get_running_loop()
    address = (traffic.next_address(), 0)
    _, connection = await loop.create_connection(Connection, "127.0.0.1", traffic.port, local_addr=address)
    return connection


class Connection(asyncio.Protocol):
    """One request after another; an answer ends after its content-length, or with its last chunk."""

    def __init__(self) -> None:
        self._received = b""
        self._answered: asyncio.Future[bytes] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def exchange(self, request: bytes) -> bytes:
        """The whole answer."""
        self._received, self._answered = b"", asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answered

    def close(self) -> None:
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._answered is not None and not self._answered.done() and is_whole(self._received):
            self._answered.set_result(self._received)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionError("the gateway closed the connection"))


def is_whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    if not end:
        return False
    at = head.lower().find(b"content-length:")
    return len(body) >= int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else body.endswith(b"0\r\n\r\n")
