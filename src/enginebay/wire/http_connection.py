"""One HTTP/1.1 connection: sends a request, feeds the answer to its `HttpStream`, then serves the next request."""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from collections.abc import Mapping
from itertools import chain
from typing import Protocol, cast

import httptools

from enginebay.clock import Clock
from enginebay.errors import BackendError, BackendTimeout, BackendUnavailable, EngineBayError, UpstreamError
from enginebay.wire.deadlines import NEVER
from enginebay.wire.http_stream import HttpStream
from enginebay.wire.http_types import HttpLimits, HttpTimeouts

READ_BUFFER_BYTES = 256 * 1024
_JOIN_BELOW_BYTES = 64 * 1024
_KEEP_ALIVE_MARGIN_S = 1.0
_RELEASED_S = 1.0


class StaleConnection(BackendUnavailable):
    """The server had closed an idle connection before it had the whole request: it can't have begun to answer it."""


class ConnectionOwner(Protocol):
    def became_idle(self, connection: HttpConnection) -> None: ...

    def closed(self, connection: HttpConnection) -> None:
        """Called once, synchronously with whatever ended the connection."""
        ...

    def gone(self, connection: HttpConnection) -> None:
        """Called once, when the socket is closed too."""
        ...

    def deadline_set(self, deadline_at: float) -> None: ...


class HttpConnection(asyncio.BufferedProtocol):
    # idle                  no stream; `deadline_at` is when we close, before the server does
    # busy                  a stream, from `send` to its last byte
    # closed                `owner.closed` was called; the socket follows in the next turn of the loop
    def __init__(
        self,
        owner: ConnectionOwner,
        *,
        clock: Clock,
        peer: str,
        backend: str,
        limits: HttpLimits,
        keep_alive_s: float,
        read_buffer: memoryview,
    ) -> None:
        """read_buffer is shared by all connections of a loop: each read is parsed before the next one begins."""
        self.deadline_at = NEVER
        self.is_open = False
        self._owner = owner
        self._clock = clock
        self._peer = peer
        self._backend = backend
        self._limits = limits
        self._default_keep_alive_s = self._keep_alive_s = keep_alive_s
        self._read_buffer = read_buffer
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._stream: HttpStream | None = None
        self._num_requests = 0
        self._num_request_bytes = 0
        self._is_unacknowledged = False
        self._timeouts = HttpTimeouts()
        self._first_byte_at = self._total_at = NEVER
        self._reset_answer()

    def _reset_answer(self) -> None:
        self._has_begun = False
        self._has_head = False
        self._is_complete = False
        self._has_surplus = False
        self._ends_with_connection = True
        self._may_stay_open = False
        self._num_head_bytes = 0
        self._raw_headers: list[tuple[bytes, bytes]] = []
        self._parts: list[bytes] = []

    # ---------------------------------------------------------------- for the client

    def opened(self) -> bool:
        """To be called once it is connected: from here on the owner counts it. False if it was lost again already."""
        self.is_open = self._transport is not None and self._parser is not None and not self._transport.is_closing()
        if self.is_open:
            self.deadline_at = self._clock.now() + self._keep_alive_s
        return self.is_open

    @property
    def is_usable(self) -> bool:
        """Also false in the turn of the loop between a loss and the call of `connection_lost`."""
        return self.is_open and self._transport is not None and not self._transport.is_closing()

    def send(self, stream: HttpStream, head: bytes, body: bytes, *, called_at: float, timeouts: HttpTimeouts) -> None:
        """Write a request whose answer goes to `stream`. The time-outs count from `called_at`."""
        assert self.is_open
        assert self._stream is None
        assert self._transport is not None
        self._stream = stream
        stream.attach(self)
        self._num_requests += 1
        self._num_request_bytes = len(head) + len(body)
        self._timeouts = timeouts
        self._first_byte_at = NEVER if timeouts.first_byte_s is None else called_at + timeouts.first_byte_s
        self._total_at = NEVER if timeouts.total_s is None else called_at + timeouts.total_s
        self._set_deadline(min(self._first_byte_at, self._total_at))
        if len(body) < _JOIN_BELOW_BYTES:
            self._transport.write(head + body)
        else:
            self._transport.write(head)
            self._transport.write(body)

    def abort(self) -> None:
        """Close the socket at once, whatever is under way. The stream, if any, gets nothing more."""
        self._stream = None
        self._close()

    def fail(self, error: EngineBayError) -> None:
        stream, self._stream = self._stream, None
        self._close()
        if stream is not None:
            stream.failed(error)

    def pause(self) -> None:
        if self._transport is not None:
            self._transport.pause_reading()
            self._set_deadline(self._total_at)

    def resume(self) -> None:
        if self._transport is not None and self.is_usable:
            self._transport.resume_reading()
            self._set_idle_deadline(self._clock.now())

    def end_soon(self) -> None:
        self._timeouts = HttpTimeouts(total_s=_RELEASED_S)
        self._total_at = self._clock.now() + _RELEASED_S
        if self._stream is not None and self._stream.is_paused:
            self.resume()
        self._set_deadline(self._total_at)

    def expire(self) -> None:
        if self._stream is None:
            self._close()
        else:
            self.fail(BackendTimeout(self._what_expired(), backend=self._backend))

    def _what_expired(self) -> str:
        timeouts = self._timeouts
        if self._total_at <= self._clock.now():
            return f"{self._peer} did not finish its answer within {timeouts.total_s:g} s"
        if not self._has_begun:
            return f"{self._peer} did not begin to answer within {timeouts.first_byte_s:g} s"
        return f"{self._peer} sent nothing for {timeouts.idle_s:g} s in the middle of its answer"

    def _close(self) -> None:
        if not self.is_open:
            return
        self.is_open = False
        self.deadline_at = NEVER
        if self._transport is not None:
            self._transport.abort()
        self._owner.closed(self)

    def _set_deadline(self, deadline_at: float) -> None:
        self.deadline_at = deadline_at
        self._owner.deadline_set(deadline_at)

    def _set_idle_deadline(self, now: float) -> None:
        idle_s = self._timeouts.idle_s
        self._set_deadline(self._total_at if idle_s is None else min(now + idle_s, self._total_at))

    # ---------------------------------------------------------------- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._parser = httptools.HttpResponseParser(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        received_at = self._clock.now()
        stream = self._stream
        if stream is None or self._parser is None:
            self._close()  # bytes that nobody asked for: an idle connection that speaks is not to be trusted
            return
        self._has_begun = True
        if not self._has_head:
            self._num_head_bytes += nbytes  # an upper bound, until the parser knows where the head ended
        try:
            self._parser.feed_data(self._read_buffer[:nbytes])
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            failure = UpstreamError(f"{self._peer} answered with malformed HTTP: {error}", backend=self._backend)
            failure.__cause__ = error
            self.fail(failure)
            return
        if self._num_head_bytes > self._limits.max_head_bytes:
            limit = self._limits.max_head_bytes
            self.fail(UpstreamError(f"{self._peer} sent a head of more than {limit} bytes", backend=self._backend))
            return
        self._deliver(stream, received_at)

    def _deliver(self, stream: HttpStream, received_at: float) -> None:
        stream.received_at = received_at
        if self._parts:
            data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
            self._parts = []
            stream.piece_arrived(data, received_at)
        if self._is_complete:
            self._finish()
        elif not stream.is_paused:
            self._set_idle_deadline(received_at)

    def _finish(self) -> None:
        stream, transport = self._stream, self._transport
        assert stream is not None
        assert transport is not None
        self._stream = None
        keep = self._may_stay_open and not (self._ends_with_connection or self._has_surplus or transport.is_closing())
        if stream.is_paused and keep:
            transport.resume_reading()
        self._reset_answer()
        if keep:
            self._set_deadline(self._clock.now() + self._keep_alive_s)
        else:
            self._close()
        stream.completed()
        if keep:
            self._owner.became_idle(self)

    def eof_received(self) -> bool:
        if self._stream is None:
            self._close()
            return False
        self._is_unacknowledged = self._num_unacknowledged_bytes() >= self._num_request_bytes
        if self._transport is not None:
            self._transport.abort()
        return False

    def _num_unacknowledged_bytes(self) -> int:
        """What the peer's kernel had not received when it sent its end of stream, which acknowledges all it had."""
        if self._transport is None or not hasattr(termios, "TIOCOUTQ"):
            return 0
        try:
            answer = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
        except OSError:
            return 0
        num_bytes = int.from_bytes(answer, sys.byteorder, signed=True)
        return num_bytes + self._transport.get_write_buffer_size()

    def connection_lost(self, exc: Exception | None) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            if exc is None and self._has_head and self._ends_with_connection:
                stream.completed()
            else:
                error = self._loss(exc)
                error.__cause__ = exc
                stream.failed(error)
        self._close()
        self._parser = None  # it holds our bound methods: a cycle otherwise
        self._owner.gone(self)

    def _loss(self, exc: Exception | None) -> BackendError:
        # A broken pipe while reading: their end of stream came first and their reset, for our request, after it.
        never_received = self._is_unacknowledged or isinstance(exc, BrokenPipeError)
        if self._num_requests > 1 and not self._has_begun and never_received:
            return StaleConnection(f"{self._peer} had closed the idle connection", backend=self._backend)
        when = "in the middle of its answer" if self._has_begun else "without an answer"
        return BackendUnavailable(
            f"{self._peer} closed the connection {when}{f' ({exc})' if exc else ''}", backend=self._backend
        )

    # ---------------------------------------------------------------- called by the parser

    def on_message_begin(self) -> None:
        self._has_surplus = self._is_complete  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self._has_head:
            self._raw_headers.append((name, value))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        assert self._stream is not None
        status = self._parser.get_status_code()
        self._num_head_bytes = sum(map(len, chain.from_iterable(self._raw_headers)))
        headers = decode_headers(self._raw_headers)
        self._raw_headers = []
        if self._is_complete or status < 200:
            return  # an interim answer; the real one follows
        self._has_head = True
        has_length = "content-length" in headers or "transfer-encoding" in headers
        self._ends_with_connection = not has_length and status not in (204, 304)
        self._keep_alive_s = _announced_keep_alive_s(headers.get("keep-alive"), self._default_keep_alive_s)
        self._stream.head_arrived(status, headers)

    def on_body(self, body: bytes) -> None:
        if not self._is_complete:
            self._parts.append(body)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        self._is_complete = self._has_head
        self._may_stay_open = self._parser.should_keep_alive()  # it can be asked here only


def decode_headers(raw: list[tuple[bytes, bytes]]) -> Mapping[str, str]:
    headers: dict[str, str] = {}
    for raw_name, raw_value in raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _announced_keep_alive_s(header: str | None, default_s: float) -> float:
    """From `Keep-Alive: timeout=N`; a little less, so that we close first."""
    if header is None:
        return default_s
    for part in header.split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() == "timeout" and value.isdigit():
            return max(float(value) - _KEEP_ALIVE_MARGIN_S, float(value) / 2)
    return default_s
