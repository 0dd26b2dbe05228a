"""A bounded pool of kept-alive connections to one server, first come first served."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from enginebay.clock import Clock
from enginebay.errors import BackendTimeout, BackendUnavailable, NotStarted
from enginebay.wire.deadlines import NEVER, DeadlineWatch
from enginebay.wire.http_connection import HttpConnection

Connect = Callable[["HttpPool"], Awaitable[HttpConnection]]


class HttpPool:
    # num_open counts places. One place is held by each connection until it is closed, by each connect under way, and
    # by a waiter that was just given it. It is handed from holder to holder and given back exactly once.
    # There are waiters only while nothing is idle and all places are taken.
    def __init__(self, *, connect: Connect, max_connections: int, clock: Clock, peer: str, backend: str) -> None:
        self._connect_socket = connect
        self._max_connections = max_connections
        self._clock = clock
        self._peer = peer
        self._backend = backend
        self._watch = DeadlineWatch(clock)
        self._idle: dict[HttpConnection, None] = {}
        self._waiters: deque[_Waiter] = deque()
        self._sockets: set[HttpConnection] = set()
        self._emptied = asyncio.Event()
        self._is_closed = False
        self.num_open = 0

    @property
    def num_idle(self) -> int:
        return len(self._idle)

    @property
    def num_waiting(self) -> int:
        return len(self._waiters)

    async def acquire(self, *, deadline_at: float = NEVER, fresh: bool = False) -> HttpConnection:
        """An open connection, the caller's alone. It returns by itself when its answer is complete.

        fresh: one that no other request has used; idle ones are dropped, since the server closes them.
        """
        while True:
            self._demand_open()
            connection = self._take_idle(fresh=fresh)
            if connection is not None:
                return connection
            if self.num_open < self._max_connections:
                self.num_open += 1
                return await self._connect()
            connection = await self._wait(_Waiter(deadline_at=deadline_at, fresh=fresh))
            if connection is None:
                return await self._connect()
            if connection.is_usable:
                return connection
            connection.abort()

    async def open(self, num_connections: int) -> None:
        """Connect until this many are open, so that no request pays for it."""
        wanted = min(num_connections, self._max_connections) - self.num_open
        outcomes = await asyncio.gather(*(self._open_one() for _ in range(wanted)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def aclose(self) -> None:
        """Idempotent. Streams under way fail with NotStarted; returns when every socket is closed."""
        self._is_closed = True
        self._watch.close()
        for waiter in self._waiters:
            waiter.fail(self._closed_error())
        for connection in list(self._sockets):
            connection.fail(self._closed_error())
        while self._sockets:
            self._emptied.clear()
            await self._emptied.wait()

    def _take_idle(self, *, fresh: bool) -> HttpConnection | None:
        now = self._clock.now()
        while self._idle:
            connection, _ = self._idle.popitem()  # the one used last: the others may expire
            if not fresh and connection.deadline_at > now and connection.is_usable:
                return connection
            connection.abort()
        return None

    async def _open_one(self) -> None:
        self._demand_open()
        self.num_open += 1
        self.became_idle(await self._connect())

    async def _connect(self) -> HttpConnection:
        """Fill a place that the caller holds; it is given back on failure."""
        try:
            connection = await self._connect_socket(self)
            if not connection.opened():
                raise BackendUnavailable(f"{self._peer} closed the connection at once", backend=self._backend)
        except BaseException:
            self._give_back_place()
            raise
        self._sockets.add(connection)
        self._watch.add(connection)
        if self._is_closed:
            connection.abort()
            raise self._closed_error()
        return connection

    async def _wait(self, waiter: _Waiter) -> HttpConnection | None:
        """A connection, or None: a place to fill."""
        self._waiters.append(waiter)
        if waiter.deadline_at < NEVER:
            self._watch.add(waiter)
        try:
            return await waiter.given
        except asyncio.CancelledError:
            self._return_what_was_given(waiter)
            raise
        except TimeoutError as error:
            problem = f"no connection to {self._peer} came free in time: all {self._max_connections} are busy"
            raise BackendTimeout(problem, backend=self._backend) from error
        finally:
            self._watch.discard(waiter)
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    def _return_what_was_given(self, waiter: _Waiter) -> None:
        given = waiter.given
        if given.cancelled() or not given.done() or given.exception() is not None:
            return
        connection = given.result()
        if connection is None:
            self._give_back_place()
        elif connection.is_open:
            self.became_idle(connection)

    def _next_waiter(self) -> _Waiter | None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.given.done():
                return waiter
        return None

    def _give_back_place(self) -> None:
        waiter = self._next_waiter()
        if waiter is None:
            self.num_open -= 1
        else:
            waiter.given.set_result(None)

    def _demand_open(self) -> None:
        if self._is_closed:
            raise self._closed_error()

    def _closed_error(self) -> NotStarted:
        return NotStarted(f"the client of {self._peer} was closed", backend=self._backend)

    # ---------------------------------------------------------------- told by the connections

    def became_idle(self, connection: HttpConnection) -> None:
        waiter = self._next_waiter()
        if waiter is None:
            self._idle[connection] = None
            self._watch.notice(connection.deadline_at)
        elif waiter.fresh:
            self._waiters.appendleft(waiter)
            connection.abort()
        else:
            waiter.given.set_result(connection)

    def closed(self, connection: HttpConnection) -> None:
        self._idle.pop(connection, None)
        self._watch.discard(connection)
        self._give_back_place()

    def gone(self, connection: HttpConnection) -> None:
        self._sockets.discard(connection)
        self._emptied.set()

    def deadline_set(self, deadline_at: float) -> None:
        self._watch.notice(deadline_at)


class _Waiter:
    def __init__(self, *, deadline_at: float, fresh: bool) -> None:
        self.deadline_at = deadline_at
        self.fresh = fresh
        self.given: asyncio.Future[HttpConnection | None] = asyncio.get_running_loop().create_future()

    def expire(self) -> None:
        self.deadline_at = NEVER
        self.fail(TimeoutError())

    def fail(self, error: Exception) -> None:
        if not self.given.done():
            self.given.set_exception(error)
