"""One HTTP request to a simulator, and the handle through which its wire answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol
from urllib.parse import parse_qs

import msgspec

from enginebay.quantities import SIMULATED_HEADER
from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.faults import Fault, FaultRule
from enginebay.testing.simulators.request import SimulatedRequest

NO_HEADERS: Mapping[str, str] = {}
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What reading a body as JSON may raise; the last where it is nested too deeply."""
_REASONS = {
    200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found", 405: "Method Not Allowed",
    413: "Payload Too Large", 415: "Unsupported Media Type", 422: "Unprocessable Entity", 424: "Failed Dependency",
    429: "Too Many Requests", 500: "Internal Server Error", 501: "Not Implemented", 503: "Service Unavailable",
}  # fmt: skip


@dataclass(frozen=True)
class HttpRequest:
    method: str
    path: str
    """Without the query."""
    query_text: str
    raw_headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @cached_property
    def headers(self) -> Mapping[str, str]:
        """With lower-case names."""
        return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in self.raw_headers}

    @cached_property
    def query(self) -> Mapping[str, str]:
        """The first value of each name."""
        return {name: values[0] for name, values in parse_qs(self.query_text, keep_blank_values=True).items()}


class Connection(Protocol):
    """The socket, as an exchange sees it."""

    def write(self, data: bytes) -> None:
        """Gathered with everything else of this turn of the loop into one send."""
        ...

    def answered(self) -> None:
        """The next request may come."""
        ...

    def close(self) -> None:
        """After what is written has been sent."""
        ...

    def abort(self) -> None: ...


class Exchange:
    """Answer either with `reply`, or with `begin_stream`, any number of `send`, and `finish`.

    `submit` hands requests to the engine. When the client goes away before the answer is complete they are cancelled,
    and nothing is called any more. Faults that strike inside an answer are played here: a wire need not know them,
    but for `num_wrong_usage`, which it adds to the output tokens that it reports.
    """

    __slots__ = ("_connection", "_engine", "_has_body", "_is_streaming", "_num_sent", "_requests", "_rule", "is_open")

    def __init__(
        self, connection: Connection, engine: SimulatedEngine, rule: FaultRule | None, *, has_body: bool = True
    ) -> None:
        """has_body: False for an answer to HEAD, which tells its length alone."""
        self._connection, self._engine, self._rule = connection, engine, rule
        self._has_body = has_body
        self._requests: list[SimulatedRequest] = []
        self._is_streaming = False
        self._num_sent = 0
        self.is_open = True
        """False once the answer is complete or the client has gone: what is sent then goes nowhere."""

    @property
    def num_wrong_usage(self) -> int:
        return int(self._rule is not None and self._rule.fault is Fault.WRONG_USAGE)

    def submit(self, request: SimulatedRequest) -> None:
        """Its listener is called from the engine's steps, never from inside this call."""
        self._engine.submit(request)
        self._requests.append(request)

    def cancel_requests(self) -> None:
        """Those that have not ended: the engine's own abort."""
        for request in self._requests:
            self._engine.cancel(request)

    # ---------------------------------------------------------------- the answer

    def reply(
        self,
        status: int,
        body: bytes,
        *,
        content_type: str = "application/json",
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        """The whole answer at once."""
        if not self.is_open:
            return
        head = _head(status, content_type, headers) + b"content-length: %d\r\n\r\n" % len(body)
        match self._fault:
            case Fault.STALL:
                return
            case Fault.CUT:
                self._connection.write(head + body[: len(body) // 2])
                self._connection.close()
                return
            case Fault.MALFORMED:
                body = body[: len(body) // 2]
                head = _head(status, content_type, headers) + b"content-length: %d\r\n\r\n" % len(body)
            case _:
                pass
        self._connection.write(head + body if self._has_body else head)
        self._done()

    def begin_stream(
        self, *, content_type: str = "text/event-stream; charset=utf-8", headers: Mapping[str, str] = NO_HEADERS
    ) -> None:
        """Status 200 and the headers; chunks follow."""
        self._is_streaming = True
        self._connection.write(_head(200, content_type, headers) + b"transfer-encoding: chunked\r\n\r\n")

    def send(self, data: bytes) -> None:
        """One HTTP chunk: an event, with the line ends that its framing has."""
        if not self.is_open:
            return
        if self._rule is not None and self._num_sent >= self._rule.after_events:
            match self._rule.fault:
                case Fault.STALL:
                    return
                case Fault.CUT:
                    self._connection.close()
                    return
                case Fault.MALFORMED if self._num_sent == self._rule.after_events:
                    stripped = data.rstrip(b"\n")
                    data = stripped[: len(stripped) // 2 + 1] + data[len(stripped) :]
                case _:
                    pass
        self._num_sent += 1
        self._connection.write(b"%x\r\n%b\r\n" % (len(data), data))

    def finish(self) -> None:
        """The stream is complete."""
        if self.is_open and not (self._fault is Fault.STALL and self._is_streaming):
            self._connection.write(b"0\r\n\r\n")
            self._done()

    def abort(self) -> None:
        """Close the connection without another byte."""
        self._connection.abort()

    def fail(self, problem: str) -> None:
        """The simulator itself broke over this request: no engine has such an answer."""
        self.cancel_requests()
        if self._is_streaming:
            self.abort()
        else:
            self.reply(500, msgspec.json.encode({"error": {"message": problem, "type": "SimulatorError"}}))

    @property
    def _fault(self) -> Fault | None:
        return self._rule.fault if self._rule is not None else None

    def _done(self) -> None:
        self.is_open = False
        self._connection.answered()

    # ---------------------------------------------------------------- told by the connection

    def client_has_gone(self) -> None:
        self.is_open = False
        self.cancel_requests()


@lru_cache(maxsize=64)
def _plain_head(status: int, content_type: str) -> bytes:
    reason = _REASONS.get(status, "Status")
    return f"HTTP/1.1 {status} {reason}\r\ncontent-type: {content_type}\r\n{SIMULATED_HEADER}: 1\r\n".encode()


def _head(status: int, content_type: str, headers: Mapping[str, str]) -> bytes:
    more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return _plain_head(status, content_type) + more.encode("latin-1")
