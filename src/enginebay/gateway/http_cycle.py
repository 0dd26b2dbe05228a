"""One request and its answer on a connection of uvicorn, for this application alone.

uvicorn writes the head of an answer by itself, checks every header of it again, and tells of a client's leaving only
to somebody who waits in `receive`: a task for each request. Here the head goes out with the first piece of the body,
in one system call, and a leaving client is a call back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, RequestResponseCycle

from enginebay.gateway.direct_connection import DirectConnection

_WITHOUT_BODY = frozenset({204, 304})


class HttpCycle(RequestResponseCycle, DirectConnection):
    flow: FlowControl

    def __init__(self, **given: Any) -> None:
        """given: what uvicorn's own is made of."""
        super().__init__(**given)
        self._head = b""
        self._ends_with_connection = False  # an answer of unknown length, to a client that knows no chunks
        self._when_gone: Callable[[], None] | None = None

    # ------------------------------------------------------------ beyond ASGI

    @property
    def is_writable(self) -> bool:
        return not self.flow.write_paused

    @property
    def has_whole_body(self) -> bool:
        return not self.more_body

    @property
    def is_gone(self) -> bool:
        return self.disconnected

    def tell_when_gone(self, callback: Callable[[], None] | None) -> None:
        self._when_gone = callback
        if callback is not None:
            self.flow.resume_reading()  # a connection that is not read from does not tell its end

    def connection_lost(self) -> None:
        if self.response_complete:
            return
        self.disconnected = True
        self.message_event.set()
        if self._when_gone is not None:
            self._when_gone()

    # ------------------------------------------------------------ ASGI

    async def send(self, message: Any) -> None:
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if message["type"] == "http.response.start":
            self._keep_head(message["status"], message["headers"])
        elif self.response_complete or not self.response_started:
            raise RuntimeError(f"{message['type']} where the answer is complete or has not begun")
        else:
            self._write(message["body"], is_last=not message["more_body"])

    def _keep_head(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Raises RuntimeError for a header that would be more than one line."""
        if self.response_started:
            raise RuntimeError("the answer has begun already")
        self.response_started = True
        if self.waiting_for_100_continue and self.more_body:
            self.keep_alive = False  # whether the body that was not asked for still comes is not known
        self.waiting_for_100_continue = False
        lines = [STATUS_LINE[status]]
        for name, value in (*self.default_headers, *headers):
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                self.chunked_encoding, self.expected_content_length = False, int(value)
        if not self.keep_alive:
            lines.append(b"connection: close\r\n")
        is_head = self.scope["method"] == "HEAD"
        if self.chunked_encoding is None and not is_head and status not in _WITHOUT_BODY:
            if self.scope["http_version"] == "1.0":
                self._ends_with_connection = True
            else:
                self.chunked_encoding = True
                lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if not len(lines) == head.count(b"\n") == head.count(b"\r"):
            raise RuntimeError("a header of the answer has a line break in it")
        if is_head:
            self.expected_content_length = 0
        self._head = head + b"\r\n"

    def _write(self, body: bytes, *, is_last: bool) -> None:
        data, self._head = self._head, b""
        if self.scope["method"] == "HEAD":
            pass
        elif self.chunked_encoding:
            if body:
                data += b"%x\r\n%b\r\n" % (len(body), body)
            if is_last:
                data += b"0\r\n\r\n"
        else:
            data += body
            if not self._ends_with_connection:
                self.expected_content_length -= len(body)
        if self.expected_content_length < 0 or (is_last and self.expected_content_length):
            raise RuntimeError("the answer is not as long as its content-length says")
        if data:
            self.transport.write(data)
        if is_last:
            self._complete()

    def _complete(self) -> None:
        self.response_complete = True
        self.message_event.set()
        if not self.keep_alive:
            self.transport.close()
        self.on_response()
