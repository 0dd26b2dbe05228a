"""The whole suite through two directions of one wire: our client, our server, and a faultless backend behind it."""

from __future__ import annotations

import asyncio
import socket
from threading import Event, Thread
from typing import ClassVar

import uvicorn
from faultless_backend import FaultlessBackend

from enginebay import get_backend
from enginebay.backend import Backend
from enginebay.gateway.app import build_app
from enginebay.guard import GuardedBackend
from enginebay.testing import BackendConformance


class ServedInAThread(uvicorn.Server):
    """On an event loop of its own, so that it outlives those of the tests."""

    def __init__(self) -> None:
        self.backend = FaultlessBackend(pace_s=0.001)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self._is_up = Event()
        app = build_app(GuardedBackend(self.backend))
        super().__init__(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        self._thread = Thread(target=lambda: asyncio.run(self.serve(sockets=[self.listener])))
        self._thread.start()
        assert self._is_up.wait(10)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.loop = asyncio.get_running_loop()
        self._is_up.set()

    def kill_engine(self) -> None:
        self.loop.call_soon_threadsafe(self.backend.kill)

    def close(self) -> None:
        self.should_exit = True
        self._thread.join(20)
        self.listener.close()


class TestOverHttp(BackendConformance):
    never_skipped = frozenset({"stop_reason names the stop string"})
    server: ClassVar[ServedInAThread]

    @classmethod
    def setup_class(cls) -> None:
        cls.server = ServedInAThread()

    @classmethod
    def teardown_class(cls) -> None:
        super().teardown_class()
        cls.server.close()

    def make_backend(self) -> Backend:
        return get_backend("openai_http", model="made-up", url=self.server.url)

    async def kill_engine(self, backend: Backend) -> None:
        """The last test: there is no other engine behind this server."""
        self.server.kill_engine()
