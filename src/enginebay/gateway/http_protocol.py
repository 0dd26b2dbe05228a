"""uvicorn's HTTP/1.1 with bounds on what comes before and around a body, and on the time that it takes to come.

uvicorn itself bounds neither: a head may grow for ever, and a connection that says nothing stays open.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from enginebay.gateway.bounds import Bounds
from enginebay.wire.openai_errors import INVALID, ErrorBody, ErrorDetail
from enginebay.wire.openai_responses import encode

_STATUS = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"


def bounded_protocol(bounds: Bounds) -> type[asyncio.Protocol]:
    """For `uvicorn.Config(http=...)`, which only calls it."""
    return cast("type[asyncio.Protocol]", partial(BoundedProtocol, bounds=bounds))


class BoundedProtocol(HttpToolsProtocol):
    def __init__(self, *args: Any, bounds: Bounds, **others: Any) -> None:
        super().__init__(*args, **others)
        self._max_head_bytes, self._head_timeout_s = bounds.max_head_bytes, bounds.read_timeout_s
        self._num_head_bytes = 0  # of this message, all that is no body: its head, framing of chunks, trailers
        self._is_in_head = True
        self._num_messages = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._num_head_bytes += len(data)
        super().data_received(data)
        if self._num_head_bytes > self._max_head_bytes and not self.transport.is_closing():
            self._refuse_head()

    def on_message_begin(self) -> None:
        self._is_in_head = True
        self._num_messages += 1
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_head_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_head_bytes = 0
        super().on_message_complete()

    def _refuse_head(self) -> None:
        """In words where nothing else is being answered on this connection."""
        if self.cycle is None or self.cycle.response_complete:
            message = f"the head of the request is larger than {self._max_head_bytes} bytes: send less"
            body = encode(ErrorBody(ErrorDetail(message=message, type=INVALID, code="head_too_large")))
            fields = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(_STATUS + fields + body)
        self.transport.close()

    def _look_later(self) -> None:
        """One timer for the connection: a head that was unfinished then and still is, is cut off."""
        waiting = self._num_messages if self._is_in_head else None
        self._timer = self.loop.call_later(self._head_timeout_s, self._look, waiting)

    def _look(self, waiting_before: int | None) -> None:
        if self._is_in_head and self._num_messages == waiting_before:
            self.transport.close()
        else:
            self._look_later()
