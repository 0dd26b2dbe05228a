"""One connection of a `ScriptedServer`."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, cast

import httptools
import msgspec

from enginebay.clock import Clock
from enginebay.testing.server_answers import Answer
from enginebay.wire.http_connection import decode_headers


@dataclass(frozen=True)
class ReceivedRequest:
    """What came in; `headers` with lower-case names."""

    method: str
    path: str
    raw_headers: list[tuple[bytes, bytes]]
    body: bytes
    received_at: float

    @cached_property
    def headers(self) -> dict[str, str]:
        return dict(decode_headers(self.raw_headers))

    def json(self) -> dict[str, object]:
        return cast(dict[str, object], msgspec.json.decode(self.body))


class Host(Protocol):
    """The server, as a connection sees it."""

    num_live_streams: int
    num_cancelled: int

    def connected(self, connection: ServerConnection) -> None: ...

    def disconnected(self, connection: ServerConnection) -> None: ...

    def answer(self, request: ReceivedRequest) -> Answer: ...


class ServerConnection(asyncio.Protocol):
    def __init__(self, host: Host, clock: Clock) -> None:
        self._host = host
        self._clock = clock
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._playing: asyncio.Task[None] | None = None
        self._is_answering = False
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ---------------------------------------------------------------- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._host.connected(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._playing is not None:
            self._playing.cancel()
        if self._is_answering:
            self._answered()
            self._host.num_cancelled += 1
        self._host.disconnected(self)

    # ---------------------------------------------------------------- called by the parser

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode()
        request = ReceivedRequest(method, self._url.decode(), self._headers, b"".join(self._body), self._clock.now())
        self._url, self._headers, self._body = b"", [], []
        if self._is_answering:
            self.close()  # pipelining: no client of an engine does it
            return
        self._begin(self._host.answer(request))

    # ---------------------------------------------------------------- the answer

    def _begin(self, answer: Answer) -> None:
        self._is_answering = True
        self._host.num_live_streams += 1
        if any(wait_s for wait_s, _ in answer.pieces):
            self._playing = asyncio.get_running_loop().create_task(self._play(answer))
            return
        assert self._transport is not None
        self._transport.write(answer.all_bytes)
        self._end(answer)

    async def _play(self, answer: Answer) -> None:
        assert self._transport is not None
        at = self._clock.now()
        for wait_s, data in answer.pieces:
            at += wait_s  # from one instant to the next, so that lateness does not add up
            if wait_s:
                await self._clock.sleep_until(at)
            if self._transport.is_closing():
                return  # the client is gone; `connection_lost` follows
            self._transport.write(data)
        self._end(answer)

    def _end(self, answer: Answer) -> None:
        self._playing = None
        if answer.ending == "stall":
            return  # until the client has had enough
        self._answered()
        if answer.ending == "close" and self._transport is not None:
            self._transport.close()

    def _answered(self) -> None:
        self._is_answering = False
        self._host.num_live_streams -= 1
