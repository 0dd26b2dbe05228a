"""One HTTP request and its answer, as the routes see them."""

from __future__ import annotations

import asyncio
import re
from types import TracebackType

from enginebay.gateway.asgi import Headers, Receive, Scope, Send, abort_connection
from enginebay.gateway.body import ClientGone, read_body
from enginebay.gateway.bounds import Bounds
from enginebay.gateway.call import Client

JSON_HEADERS: Headers = [(b"content-type", b"application/json")]
EVENT_STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # asks nginx not to hold tokens back
]
TOO_SLOW = "reads too slowly"
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class Exchange:
    """request_id: the client's `x-request-id` where it is sound, else ours; it goes back in every answer.

    arrived_at: of the backend's clock, before anything was read of the body. client: who asks; until the door has let
    it in, only its address.
    """

    __slots__ = (
        "_base_headers",
        "_bounds",
        "_receive",
        "_send",
        "arrived_at",
        "client",
        "has_begun",
        "has_ended",
        "is_writing",
        "num_body_bytes",
        "num_writes",
        "request_id",
        "scope",
        "why_gone",
    )

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        bounds: Bounds,
        fallback_id: str,
        base_headers: Headers,
        arrived_at: float,
    ) -> None:
        self.scope, self.arrived_at = scope, arrived_at
        self._receive, self._send, self._bounds = receive, send, bounds
        given_id = (self.header(b"x-request-id") or b"").decode("latin-1")
        self.request_id = given_id if REQUEST_ID.fullmatch(given_id) else fallback_id
        self._base_headers = [*base_headers, (b"x-request-id", self.request_id.encode())]
        self.has_begun = False
        self.has_ended = False
        self.why_gone = "disconnected"
        self.is_writing = False
        self.num_writes = 0
        self.num_body_bytes = 0
        peer = scope.get("client")
        self.client = Client(address=peer[0] if peer else "")

    @property
    def path(self) -> str:
        return self.scope["path"]

    def header(self, name: bytes) -> bytes | None:
        """name: lower case. The first of that name."""
        for header_name, value in self.scope["headers"]:
            if header_name == name:
                return value
        return None

    def headers(self, name: bytes) -> list[bytes]:
        """name: lower case. All of that name."""
        return [value for header_name, value in self.scope["headers"] if header_name == name]

    async def body(self) -> bytes:
        """Raises BodyTooLarge, DeadlineExceeded, InvalidRequest, or ClientGone."""
        bounds = self._bounds
        data = await read_body(
            self.header, self._receive, max_bytes=bounds.max_body_bytes, timeout_s=bounds.read_timeout_s
        )
        self.num_body_bytes = len(data)
        return data

    async def respond(self, status: int, body: bytes, headers: Headers) -> None:
        """A whole answer at once. Raises ClientGone."""
        try:
            async with asyncio.timeout(self._bounds.write_timeout_s):
                await self.begin(status, [*headers, (b"content-length", b"%d" % len(body))])
                await self.write(body, is_last=True)
        except TimeoutError:  # only where earlier answers on this connection still wait to be read
            abort_connection(self._send)
            raise ClientGone(TOO_SLOW) from None

    async def begin(self, status: int, headers: Headers) -> None:
        self.has_begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self._base_headers]})

    async def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Waits while the client's buffer is full. Use it inside `while_client_listens`, which bounds that wait."""
        self.has_ended = is_last
        self.is_writing = True
        self.num_writes += 1
        await self._send({"type": "http.response.body", "body": data, "more_body": not is_last})
        self.is_writing = False

    def abort(self) -> None:
        """Drop the connection with what waits in it."""
        abort_connection(self._send)

    def while_client_listens(self) -> CancelWhenClientLeaves:
        """For the time after the body was read: a client that leaves, or reads nothing, cancels what runs inside."""
        return CancelWhenClientLeaves(self, self._receive, self._send, write_timeout_s=self._bounds.write_timeout_s)


class CancelWhenClientLeaves:
    """Cancels the task inside it when the client is gone, and turns that into ClientGone, as a time-out would.

    A client that takes nothing off a full buffer for write_timeout_s to twice that is cut off: one timer for the
    whole stream looks whether the same write still waits, so that a write that need not wait costs nothing.
    """

    __slots__ = (
        "_exchange",
        "_has_left",
        "_loop",
        "_num_cancellations_before",
        "_receive",
        "_send",
        "_task",
        "_timer",
        "_watcher",
        "_write_timeout_s",
    )

    def __init__(self, exchange: Exchange, receive: Receive, send: Send, *, write_timeout_s: float) -> None:
        self._exchange, self._receive, self._send = exchange, receive, send
        self._write_timeout_s = write_timeout_s
        self._has_left = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._num_cancellations_before = task.cancelling()
        self._loop = asyncio.get_running_loop()
        self._watcher = self._loop.create_task(self._watch())
        self._look_later()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        self._timer.cancel()
        if not self._has_left:
            return
        is_ours_alone = self._task.uncancel() <= self._num_cancellations_before
        if is_ours_alone and kind is asyncio.CancelledError:
            raise ClientGone(self._exchange.why_gone) from error

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        if not self._exchange.has_ended:  # servers report an answered request the same way
            self._leave()

    def _look_later(self) -> None:
        waiting_write = self._exchange.num_writes if self._exchange.is_writing else None
        self._timer = self._loop.call_later(self._write_timeout_s, self._look, waiting_write)

    def _look(self, waiting_before: int | None) -> None:
        if not (self._exchange.is_writing and self._exchange.num_writes == waiting_before):
            self._look_later()
            return
        self._exchange.why_gone = TOO_SLOW
        if not abort_connection(self._send):  # else the server now reports the disconnect to the watcher
            self._leave()

    def _leave(self) -> None:
        self._has_left = True
        self._task.cancel()
