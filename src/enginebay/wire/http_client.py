"""Our HTTP/1.1 client: the load test's clock, and the cheapest way to an engine.

It is owned because everything measured depends on it: bytes are stamped with the injected clock as they arrive,
closing the socket is the cancel, connections are opened before they are needed, and a request costs tens of
microseconds. No redirects, no compression, no proxies: an engine's API has none of them.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

from enginebay.clock import Clock
from enginebay.errors import BackendTimeout, BackendUnavailable, ConfigError, InvalidRequest, UpstreamError
from enginebay.wire.deadlines import NEVER
from enginebay.wire.http_connection import READ_BUFFER_BYTES, HttpConnection, StaleConnection
from enginebay.wire.http_pool import HttpPool
from enginebay.wire.http_stream import HttpStream
from enginebay.wire.http_types import HttpLimits, HttpResponse, HttpTimeouts, Method

SendListener = Callable[[float, bytes, bytes], None]
"""(instant, head, body) of a request as it is given to its socket, once more where that was a connection that the
server had closed. Called in between: keep what you are given and return."""
NO_HEADERS: Mapping[str, str] = MappingProxyType({})
DEFAULT_KEEP_ALIVE_S = 4.0
"""A connection idle for this long is closed by us. The widespread default of servers (uvicorn) is 5 s."""
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FORBIDDEN_IN_VALUE = re.compile(r"[^\t\x20-\x7e\x80-\xff]")
_FORBIDDEN_IN_TARGET = re.compile(r"[^\x21-\x7e]")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class HttpClient:
    """Requests to one server, on any number of tasks of one event loop."""

    def __init__(
        self,
        base_url: str,
        *,
        clock: Clock,
        max_connections: int = 1024,
        connect_timeout_s: float = 10.0,
        headers: Mapping[str, str] = NO_HEADERS,
        timeouts: HttpTimeouts | None = None,
        limits: HttpLimits | None = None,
        keep_alive_s: float = DEFAULT_KEEP_ALIVE_S,
        ssl_context: ssl.SSLContext | None = None,
        backend: str | None = None,
    ) -> None:
        """base_url may end in a path, which all requests share. headers go with every request.

        ssl_context: for `https:`, else the system's certificates. backend: the name that errors carry.
        """
        self._origin = _Origin(base_url)
        self._backend = backend or self._origin.peer
        self._clock = clock
        self._connect_timeout_s = connect_timeout_s
        self._timeouts = timeouts or HttpTimeouts()
        self._limits = limits or HttpLimits()
        self._keep_alive_s = keep_alive_s
        self._ssl_context = ssl_context or (ssl.create_default_context() if self._origin.is_https else None)
        self._common_head = _header_lines({"host": self._origin.host_header, "user-agent": "enginebay", **headers})
        self._read_buffer = memoryview(bytearray(READ_BUFFER_BYTES))
        self._send_listeners: tuple[SendListener, ...] = ()
        self._pool = HttpPool(
            connect=self._connect,
            max_connections=max_connections,
            clock=clock,
            peer=self._origin.peer,
            backend=self._backend,
        )

    @property
    def max_body_bytes(self) -> int:
        return self._limits.max_body_bytes

    @property
    def num_open(self) -> int:
        """Connections that are open or being opened."""
        return self._pool.num_open

    @property
    def num_idle(self) -> int:
        return self._pool.num_idle

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a free connection."""
        return self._pool.num_waiting

    def add_send_listener(self, listener: SendListener) -> None:
        self._send_listeners = (*self._send_listeners, listener)

    def remove_send_listener(self, listener: SendListener) -> None:
        self._send_listeners = tuple(one for one in self._send_listeners if one != listener)

    async def open(self, num_connections: int) -> None:
        """Connect in advance, so that no request pays for it. Raises BackendUnavailable or BackendTimeout."""
        await self._pool.open(num_connections)

    async def request(
        self,
        method: Method,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] = NO_HEADERS,
        timeout_s: float | None = None,
    ) -> HttpResponse:
        """Send and read the whole answer, whatever its status. timeout_s bounds all of it."""
        timeouts = self._timeouts if timeout_s is None else HttpTimeouts(idle_s=timeout_s, total_s=timeout_s)
        stream = await self.stream(method, path, body=body, headers=headers, timeouts=timeouts)
        return await stream.read(self._limits.max_body_bytes)

    async def stream(
        self,
        method: Method,
        path: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] = NO_HEADERS,
        timeouts: HttpTimeouts | None = None,
    ) -> HttpStream:
        """Send and return when status and headers are there, whatever the status.

        Raises BackendUnavailable, BackendTimeout or UpstreamError (a redirect, a malformed or compressed answer).
        """
        return await self.send(self.head(method, path, body, headers), body, timeouts=timeouts)

    async def send(self, head: bytes, body: bytes, *, timeouts: HttpTimeouts | None = None) -> HttpStream:
        """The same for a request whose head was made before."""
        timeouts = timeouts or self._timeouts
        called_at = self._clock.now()
        try:
            return await self._exchange(head, body, called_at=called_at, timeouts=timeouts)
        except StaleConnection:
            return await self._exchange(head, body, called_at=called_at, timeouts=timeouts, fresh=True)

    async def aclose(self) -> None:
        """Idempotent; ends what is under way and leaves no socket behind."""
        await self._pool.aclose()

    async def _exchange(
        self, head: bytes, body: bytes, *, called_at: float, timeouts: HttpTimeouts, fresh: bool = False
    ) -> HttpStream:
        limits_s = [limit_s for limit_s in (timeouts.first_byte_s, timeouts.total_s) if limit_s is not None]
        deadline_at = called_at + min(limits_s) if limits_s else NEVER
        connection = await self._pool.acquire(deadline_at=deadline_at, fresh=fresh)
        stream = HttpStream(max_buffered_bytes=self._limits.max_buffered_bytes)
        sent_at = self._clock.now()
        connection.send(stream, head, body, called_at=called_at, timeouts=timeouts)
        for listener in self._send_listeners:
            listener(sent_at, head, body)
        await stream.wait_for_head()
        if 300 <= stream.status < 400 or "content-encoding" in stream.headers:
            stream.abort()
            raise self._refusal(stream)
        return stream

    def _refusal(self, stream: HttpStream) -> UpstreamError:
        peer, headers = self._origin.peer, stream.headers
        if "content-encoding" in headers:
            problem = f"{peer} sent a body with content-encoding {headers['content-encoding']!r}, which was not asked"
        else:
            problem = f"{peer} redirects to {headers.get('location', 'nowhere')!r}: configure the final URL"
        return UpstreamError(problem, backend=self._backend, status=stream.status)

    def head(self, method: Method, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """Request line and headers. Raises InvalidRequest for what HTTP has no room for."""
        if _FORBIDDEN_IN_TARGET.search(path):
            raise InvalidRequest(f"the path {path!r} has characters that must be percent-encoded", field="path")
        length = f"content-length: {len(body)}\r\n" if body or method != "GET" else ""
        own = _header_lines(headers) if headers else ""
        target = self._origin.base_path + path
        return f"{method} {target} HTTP/1.1\r\n{self._common_head}{own}{length}\r\n".encode("latin-1")

    async def _connect(self, pool: HttpPool) -> HttpConnection:
        origin = self._origin

        def new_connection() -> HttpConnection:
            return HttpConnection(
                pool,
                clock=self._clock,
                peer=origin.peer,
                backend=self._backend,
                limits=self._limits,
                keep_alive_s=self._keep_alive_s,
                read_buffer=self._read_buffer,
            )

        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                # TCP_NODELAY is set by asyncio and uvloop. SO_RCVBUF is left alone: to set it ends the kernel's tuning.
                _, connection = await loop.create_connection(
                    new_connection, origin.host, origin.port, ssl=self._ssl_context
                )
        except TimeoutError as error:
            problem = f"{origin.peer} did not accept a connection within {self._connect_timeout_s:g} s"
            raise BackendTimeout(problem, backend=self._backend) from error
        except OSError as error:
            raise BackendUnavailable(f"cannot reach {origin.peer}: {error}", backend=self._backend) from error
        return connection


class _Origin:
    def __init__(self, base_url: str) -> None:
        try:
            parts = urlsplit(base_url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{base_url!r} is no URL: {error}", path="url") from error
        if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
            raise ConfigError(
                f"{base_url!r} is no URL of a server", path="url", expected="http://host:port or https://host"
            )
        if parts.username is not None or parts.query or parts.fragment:
            raise ConfigError(
                "the URL of a server has no user, query or fragment", path="url", expected="scheme, host, port, path"
            )
        self.is_https = parts.scheme == "https"
        self.host = parts.hostname
        self.port = port or _DEFAULT_PORTS[parts.scheme]
        self.base_path = parts.path.rstrip("/")
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_default_port = self.port == _DEFAULT_PORTS[parts.scheme]
        self.host_header = host if is_default_port else f"{host}:{self.port}"
        self.peer = f"{parts.scheme}://{host}:{self.port}"


def check_url(base_url: str) -> None:
    """Raise ConfigError for what is no address of an HTTP server."""
    _Origin(base_url)


def check_header(name: str, value: str) -> str | None:
    """What is wrong with it; None when it may be sent."""
    if not _HEADER_NAME.fullmatch(name):
        return f"{name!r} is no name of a header"
    if _FORBIDDEN_IN_VALUE.search(value):
        return f"the header {name!r} has a line break or a character beyond latin-1"
    return None


def _header_lines(headers: Mapping[str, str]) -> str:
    for name, value in headers.items():
        if problem := check_header(name, value):
            raise InvalidRequest(problem)
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
