"""One HTTP request and its answer, as the routes see them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from types import TracebackType

from enginebay.gateway.asgi import Headers, Receive, Scope, Send, abort_connection
from enginebay.gateway.body import ClientGone, read_body
from enginebay.gateway.bounds import Bounds
from enginebay.gateway.call import Client
from enginebay.gateway.direct_connection import DirectConnection, direct_connection

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
    it in, only its address. answer_headers: of every answer; more may be added until it begins. has_call: a Passage
    has taken it, and gives it its outcome.
    """

    __slots__ = (
        "_bounds",
        "_direct",
        "_first_of_name",
        "_receive",
        "_send",
        "_watch",
        "answer_headers",
        "arrived_at",
        "client",
        "has_begun",
        "has_call",
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
        self._first_of_name: Mapping[bytes, bytes] = dict(reversed([*scope["headers"]]))
        self._receive, self._send, self._bounds = receive, send, bounds
        self._direct = direct_connection(send)
        self._watch: CancelWhenClientLeaves | None = None
        self.request_id = _sound_id(self.header(b"x-request-id")) or fallback_id
        self.answer_headers = [*base_headers, (b"x-request-id", self.request_id.encode())]
        self.has_call = False
        self.has_begun = False
        self.has_ended = False
        self.why_gone = "disconnected"
        self.is_writing = False
        self.num_writes = 0
        self.num_body_bytes = 0
        peer = scope.get("client")
        self.client = Client(address=(peer[0] or "") if peer else "")

    @property
    def path(self) -> str:
        return self.scope["path"]

    def header(self, name: bytes) -> bytes | None:
        """name: lower case. The first of that name."""
        return self._first_of_name.get(name)

    def headers(self, name: bytes) -> list[bytes]:
        """name: lower case. All of that name."""
        if name not in self._first_of_name:
            return []
        return [value for header_name, value in self.scope["headers"] if header_name == name]

    async def body(self) -> bytes:
        """Raises BodyTooLarge, DeadlineExceeded, InvalidRequest, or ClientGone."""
        bounds = self._bounds
        has_whole_body = self._direct is not None and self._direct.has_whole_body
        data = await read_body(
            self.header,
            self._receive,
            max_bytes=bounds.max_body_bytes,
            timeout_s=None if has_whole_body else bounds.read_timeout_s,
        )
        self.num_body_bytes = len(data)
        return data

    async def respond(self, status: int, body: bytes, headers: Headers) -> None:
        """A whole answer at once. Raises ClientGone."""
        headers = [*headers, (b"content-length", b"%d" % len(body))]
        if self._need_not_wait():
            await self.begin(status, headers)
            await self.write(body, is_last=True)
            return
        try:
            async with asyncio.timeout(self._bounds.write_timeout_s):
                await self.begin(status, headers)
                await self.write(body, is_last=True)
        except TimeoutError:  # only where earlier answers on this connection still wait to be read
            abort_connection(self._send)
            raise ClientGone(TOO_SLOW) from None

    async def begin(self, status: int, headers: Headers) -> None:
        self.has_begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": [*headers, *self.answer_headers]})

    async def write(self, data: bytes, *, is_last: bool = False) -> None:
        """Waits while the client's buffer is full. Use it inside `while_client_listens`, which bounds that wait."""
        self.has_ended = is_last
        message = {"type": "http.response.body", "body": data, "more_body": not is_last}
        if self._need_not_wait():
            await self._send(message)
            return
        self.is_writing = True
        self.num_writes += 1
        if self._watch is not None:
            self._watch.look_at_writes()
        await self._send(message)
        self.is_writing = False

    def unwatched(self) -> None:
        """Called at the end of `while_client_listens`."""
        self._watch = None

    def _need_not_wait(self) -> bool:
        return self._direct is not None and self._direct.is_writable

    def abort(self) -> None:
        """Drop the connection with what waits in it."""
        abort_connection(self._send)

    def while_client_listens(self) -> CancelWhenClientLeaves:
        """For the time after the body was read: a client that leaves, or reads nothing, cancels what runs inside."""
        self._watch = CancelWhenClientLeaves(
            self, self._receive, self._send, direct=self._direct, write_timeout_s=self._bounds.write_timeout_s
        )
        return self._watch


def _sound_id(given: bytes | None) -> str | None:
    text = None if given is None else given.decode("latin-1")
    return text if text is not None and REQUEST_ID.fullmatch(text) else None


class CancelWhenClientLeaves:
    """Cancels the task inside it when the client is gone, and turns that into ClientGone, as a time-out would.

    A client that takes nothing off a full buffer for write_timeout_s to twice that is cut off: one timer looks whether
    the same write still waits, and there is none as long as no write had to wait.
    """

    __slots__ = (
        "_direct",
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

    def __init__(
        self,
        exchange: Exchange,
        receive: Receive,
        send: Send,
        *,
        direct: DirectConnection | None,
        write_timeout_s: float,
    ) -> None:
        self._exchange, self._receive, self._send, self._direct = exchange, receive, send, direct
        self._write_timeout_s = write_timeout_s
        self._has_left = False
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._num_cancellations_before = task.cancelling()
        self._loop = asyncio.get_running_loop()
        if self._direct is None:
            self._watcher = self._loop.create_task(self._watch())
            return
        self._direct.tell_when_gone(self._leave)
        if self._direct.is_gone:
            self._leave()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._direct is not None:
            self._direct.tell_when_gone(None)
        if self._watcher is not None:
            self._watcher.cancel()
        if self._timer is not None:
            self._timer.cancel()
        self._exchange.unwatched()
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

    def look_at_writes(self) -> None:
        """One may have to wait now."""
        if self._timer is None:
            self._look_later()

    def _look_later(self) -> None:
        waiting_write = self._exchange.num_writes if self._exchange.is_writing else None
        self._timer = self._loop.call_later(self._write_timeout_s, self._look, waiting_write)

    def _look(self, waiting_before: int | None) -> None:
        if not (self._exchange.is_writing and self._exchange.num_writes == waiting_before):
            self._look_later()
            return
        self._exchange.why_gone = TOO_SLOW
        if not abort_connection(self._send):  # else the server now reports the disconnect
            self._leave()

    def _leave(self) -> None:
        if not self._has_left:
            self._has_left = True
            self._task.cancel()
