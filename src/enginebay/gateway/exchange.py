"""One HTTP request and its answer, as the routes see them."""

from __future__ import annotations

import asyncio
import re
from types import TracebackType

from enginebay.gateway.asgi import Headers, Receive, Scope, Send, abort_connection
from enginebay.gateway.body import ClientGone, read_body
from enginebay.gateway.limits import Limits

JSON_HEADERS: Headers = [(b"content-type", b"application/json")]
EVENT_STREAM_HEADERS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # asks nginx not to hold tokens back
]
REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


class Exchange:
    """request_id: the client's `x-request-id` where it is sound, else ours; it goes back in every answer."""

    __slots__ = (
        "_base_headers",
        "_limits",
        "_receive",
        "_send",
        "has_begun",
        "has_ended",
        "request_id",
        "scope",
        "why_gone",
    )

    def __init__(
        self, scope: Scope, receive: Receive, send: Send, *, limits: Limits, fallback_id: str, base_headers: Headers
    ) -> None:
        self.scope = scope
        self._receive, self._send, self._limits = receive, send, limits
        given_id = (self.header(b"x-request-id") or b"").decode("latin-1")
        self.request_id = given_id if REQUEST_ID.fullmatch(given_id) else fallback_id
        self._base_headers = [*base_headers, (b"x-request-id", self.request_id.encode())]
        self.has_begun = False
        self.has_ended = False
        self.why_gone = "disconnected"

    @property
    def path(self) -> str:
        return self.scope["path"]

    def header(self, name: bytes) -> bytes | None:
        """name: lower case. The first of that name."""
        for header_name, value in self.scope["headers"]:
            if header_name == name:
                return value
        return None

    async def body(self) -> bytes:
        """Raises BodyTooLarge, DeadlineExceeded, InvalidRequest, or ClientGone."""
        limits = self._limits
        return await read_body(
            self.header, self._receive, max_bytes=limits.max_body_bytes, timeout_s=limits.read_timeout_s
        )

    async def respond(self, status: int, body: bytes, headers: Headers) -> None:
        """A whole answer at once."""
        await self.begin(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.write(body, is_last=True)

    async def begin(self, status: int, headers: Headers) -> None:
        self.has_begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self._base_headers]})

    async def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Waits while the client's buffer is full; a client that takes nothing for write_timeout_s is cut off."""
        message = {"type": "http.response.body", "body": data, "more_body": not is_last}
        self.has_ended = is_last
        try:
            async with asyncio.timeout(self._limits.write_timeout_s):
                await self._send(message)
        except TimeoutError:
            self.why_gone = "reads too slowly"
            if abort_connection(self._send):
                await self._send(message)  # returns when the server has noticed that the connection is gone
            raise ClientGone(self.why_gone) from None

    def while_client_listens(self) -> CancelWhenClientLeaves:
        """For the time after the body was read: a client that leaves cancels what runs inside."""
        return CancelWhenClientLeaves(self, self._receive)


class CancelWhenClientLeaves:
    """Cancels the task inside it when the client disconnects, and turns that into ClientGone, as a time-out would."""

    __slots__ = ("_exchange", "_has_left", "_num_cancellations_before", "_receive", "_task", "_watcher")

    def __init__(self, exchange: Exchange, receive: Receive) -> None:
        self._exchange, self._receive = exchange, receive
        self._has_left = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._num_cancellations_before = task.cancelling()
        self._watcher = asyncio.create_task(self._watch())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watcher.cancel()
        if not self._has_left:
            return
        is_ours_alone = self._task.uncancel() <= self._num_cancellations_before
        if is_ours_alone and kind is asyncio.CancelledError:
            raise ClientGone(self._exchange.why_gone) from error

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            continue
        if not self._exchange.has_ended:  # servers report an answered request the same way
            self._has_left = True
            self._task.cancel()
