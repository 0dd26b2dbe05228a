"""One connection to a simulator: HTTP/1.1 on asyncio, parsed by httptools."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools

from enginebay.testing.simulators.exchange import Exchange, HttpRequest


class Host(Protocol):
    """The simulator, as a connection sees it."""

    def connected(self, connection: SimulatorConnection) -> None: ...

    def disconnected(self, connection: SimulatorConnection) -> None: ...

    def handle(self, request: HttpRequest, connection: SimulatorConnection) -> None:
        """Sets `connection.exchange` before anything else."""
        ...


class SimulatorConnection(asyncio.Protocol):
    def __init__(self, host: Host) -> None:
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self.exchange: Exchange | None = None
        """The one that is being answered."""
        self._pending: list[bytes] = []
        self._is_closing_after_answer = False
        self._received: HttpRequest | None = None
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []

    # ---------------------------------------------------------------- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._host.connected(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.abort()
            return
        if self._received is not None:  # outside the parser, which would hide what goes wrong
            request, self._received = self._received, None
            self._host.handle(request, self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._pending.clear()
        if self.exchange is not None:
            exchange, self.exchange = self.exchange, None
            exchange.client_has_gone()
        self._host.disconnected(self)

    # ---------------------------------------------------------------- called by the parser

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        if any(name.lower() == b"expect" for name, _ in self._headers):
            self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        path, _, query = self._url.decode("latin-1").partition("?")
        method = self._parser.get_method().decode("latin-1")
        has_another = self.exchange is not None or self._received is not None
        self._received = HttpRequest(method, path, query, tuple(self._headers), b"".join(self._body))
        self._url, self._headers, self._body = b"", [], []
        if has_another:
            self._received = None
            self.abort()  # pipelining: no client of an engine does it
            return
        self._is_closing_after_answer = not self._parser.should_keep_alive()

    # ---------------------------------------------------------------- called by the exchange

    def write(self, data: bytes) -> None:
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(data)

    def answered(self) -> None:
        self.exchange = None
        if self._is_closing_after_answer:
            self.close()

    def close(self) -> None:
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        if self._pending and self._transport is not None:
            self._transport.write(b"".join(self._pending))
        self._pending.clear()
