"""uvicorn's HTTP/1.1 with bounds on what comes before and around a body, and on the time that it takes to come.

uvicorn itself bounds neither: a head may grow for ever, and a connection that says nothing stays open.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, cast
from urllib.parse import unquote

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from enginebay.gateway.bounds import Bounds
from enginebay.gateway.http_cycle import HttpCycle
from enginebay.wire.openai_errors import INVALID, ErrorBody, ErrorDetail
from enginebay.wire.openai_responses import encode


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
        self._answered: HttpCycle | None = None  # `cycle` is the newest: others may come before it
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)
        if self._answered is not None:
            self._answered.connection_lost()

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
        """As uvicorn's own, with a cycle of ours; no web sockets, no prefix of paths, no limit of connections."""
        self._is_in_head = False
        parser, app = self.parser, cast("ASGI3Application", self.app)
        assert parser is not None
        version = parser.get_http_version()
        self._complete_scope(version, parser.get_method())
        self.headers = []  # the scope has its own: what comes behind the body, where no proxy looks, is no header
        previous = self.cycle
        # behind an offer of another protocol the parser reads nothing: such a connection serves one request
        keep_alive = version != "1.0" and parser.should_keep_alive() and not parser.should_upgrade()
        self.cycle = HttpCycle(
            scope=self.scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=self.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expect_100_continue,
            keep_alive=keep_alive,
            on_response=self.on_response_complete,
        )
        if previous is None or previous.response_complete:
            self._start_asgi_task(self.cycle, app)
        else:
            if self.pipeline:  # behind the first that waits: a connection that is not read from does not tell its end
                self.flow.pause_reading()
            self.pipeline.appendleft((self.cycle, app))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answered = cast("HttpCycle", cycle)
        super()._start_asgi_task(cycle, app)

    def _complete_scope(self, version: str, method: bytes) -> None:
        parsed = httptools.parse_url(self.url)
        path = parsed.path.decode("ascii")
        self.scope["method"] = method.decode("ascii")
        self.scope["http_version"] = version
        self.scope["path"] = unquote(path) if "%" in path else path
        self.scope["raw_path"] = parsed.path
        self.scope["query_string"] = parsed.query or b""

    def on_body(self, body: bytes) -> None:
        self._num_head_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._num_head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """uvicorn calls it for what its parser cannot read; its message says no more than that."""
        message = "this cannot be read as HTTP/1.1: check the request line, the headers and the framing of the body"
        self._refuse(b"400 Bad Request", message, code="malformed_http")

    def _refuse_head(self) -> None:
        message = f"the head of the request is larger than {self._max_head_bytes} bytes: send less"
        self._refuse(b"431 Request Header Fields Too Large", message, code="head_too_large")

    def _refuse(self, status: bytes, message: str, *, code: str) -> None:
        """In words where nothing else is being answered on this connection, else they would stand in that answer."""
        cycle = self.cycle
        is_about_body = cycle is not None and cycle.more_body and not cycle.response_started and not self.pipeline
        if cycle is None or cycle.response_complete or is_about_body:
            body = encode(ErrorBody(ErrorDetail(message=message, type=INVALID, code=code)))
            fields = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body)
            self.transport.write(b"HTTP/1.1 " + status + b"\r\n" + fields + body)
        self.transport.close()

    def _unsupported_upgrade_warning(self) -> None:
        """An offer that may be left unheard is nothing to warn of."""

    def _look_later(self) -> None:
        """One timer for the connection: where nothing is being answered and nothing goes on, it is cut off."""
        self._timer = self.loop.call_later(self._head_timeout_s, self._look, self._progress())

    def _look(self, before: tuple[int, int] | None) -> None:
        if before is None or before != self._progress():
            self._look_later()
        elif self.transport.is_closing():
            self.transport.abort()  # nobody takes what is still to be written
        else:
            self.transport.close()
            self._look_later()

    def _progress(self) -> tuple[int, int] | None:
        """Messages that began, and bytes of answers that nobody took yet; None while a request is being answered.

        More of a head, or of the body of a request that was answered before its end, is no progress.
        """
        if self.cycle is not None and not (self.cycle.response_complete or self.transport.is_closing()):
            return None
        return self._num_messages, self.transport.get_write_buffer_size()
