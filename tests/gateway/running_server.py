"""A real uvicorn on a loopback port, in a thread of its own."""

from __future__ import annotations

import asyncio
import io
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

import uvicorn
from structlog.typing import FilteringBoundLogger

from enginebay.backend import Backend
from enginebay.gateway.app import build_app
from enginebay.gateway.bounds import Bounds
from enginebay.gateway.capture import TrafficCapture
from enginebay.gateway.http_protocol import bounded_protocol
from enginebay.gateway.logs import make_logger
from enginebay.guard import GuardedBackend

T = TypeVar("T")


class RunningServer:
    """backend: made by `make_backend` inside the server's loop. log: what the server wrote."""

    def __init__(
        self,
        make_backend: Callable[[], Backend],
        *,
        bounds: Bounds | None = None,
        make_capture: Callable[[FilteringBoundLogger], TrafficCapture | None] = lambda log: None,
    ) -> None:
        self._make_backend, self._bounds, self._make_capture = make_backend, bounds, make_capture
        self.log = io.StringIO()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))

    def __enter__(self) -> RunningServer:
        self._thread.start()
        assert self._is_up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(setattr, self._server, "should_exit", True)
        self._thread.join(20)
        assert not self._thread.is_alive()

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.backend: Any = self._make_backend()
        log = make_logger(self.log)
        capture = self._make_capture(log)
        self.app = build_app(GuardedBackend(self.backend), bounds=self._bounds, log=log, capture=capture)
        config = uvicorn.Config(
            self.app,
            http=bounded_protocol(self._bounds or Bounds()),
            ws="none",
            lifespan="on",
            log_level="warning",
            timeout_graceful_shutdown=2,
        )
        self._server = _Server(config)
        self._server.is_listening = asyncio.Event()
        serving = asyncio.create_task(self._server.serve(sockets=[self.listener]))
        await self._server.is_listening.wait()
        if self.backend.may_start.is_set():
            await self.app.served.models.wait_until_ready()
        self._is_up.set()
        await serving

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Inside the server's loop, waited for here."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        return future.result(10)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Until the backend's counts say so."""

        async def wait() -> None:
            async with asyncio.timeout(8), self.backend.changed:
                await self.backend.changed.wait_for(holds)

        self.run(wait())

    def connections(self) -> list[asyncio.WriteTransport]:
        """The server's side of those that are open; for its own loop."""
        return [protocol.transport for protocol in self._server.server_state.connections]

    @contextmanager
    def connection(self) -> Iterator[socket.socket]:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            yield connection

    def exchange(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, dict[str, str], bytes]:
        """One request over a raw socket: status, headers (lower case), body."""
        with self.connection() as connection:
            connection.sendall(http_request(method, path, body, **headers))
            return read_response(connection)

    def post(self, path: str, fields: object, **headers: str) -> tuple[int, Any]:
        status, _, body = self.exchange("POST", path, json.dumps(fields).encode(), **headers)
        return status, json.loads(body)

    def get(self, path: str) -> tuple[int, Any]:
        status, _, body = self.exchange("GET", path)
        return status, json.loads(body)


class _Server(uvicorn.Server):
    is_listening: asyncio.Event

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.is_listening.set()


def http_request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {"host": "test", "content-type": "application/json", "content-length": str(len(body)), **given}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


def read_response(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        data += _some(connection)
    head, rest = data.split(b"\r\n\r\n", 1)
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    if "content-length" in headers:
        while len(rest) < int(headers["content-length"]):
            rest += _some(connection)
    else:
        while not rest.endswith(b"0\r\n\r\n"):
            rest += _some(connection)
    return int(lines[0].split()[1]), headers, rest


def _some(connection: socket.socket) -> bytes:
    piece = connection.recv(65536)
    if not piece:
        raise ConnectionError("the server closed the connection")
    return piece
