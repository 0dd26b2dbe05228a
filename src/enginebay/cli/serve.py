"""`enginebay serve`."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from types import FrameType
from typing import Annotated

import uvicorn
from cyclopts import Parameter
from structlog.typing import FilteringBoundLogger

from enginebay.cli.event_loop import new_event_loop
from enginebay.cli.hangups import Hangups
from enginebay.cli.parent import die_with_parent as _die_with_parent
from enginebay.config.loader import load_config
from enginebay.config.overriding import overridden
from enginebay.errors import ConfigError, EngineDied
from enginebay.gateway.app import Gateway
from enginebay.gateway.capture import BLOCK_TOKENS, SALT_VARIABLE, TrafficCapture
from enginebay.gateway.from_config import app_from_config
from enginebay.gateway.garbage import rarely_collected
from enginebay.gateway.generators import unlisted_generators
from enginebay.gateway.http_protocol import bounded_protocol
from enginebay.gateway.logs import make_logger

BACKLOG = 2048
LAST_WORDS_S = 1
"""After the grace, for the error that ends what is still running to be written."""
HURRY_S = 2.0
"""After a second signal, for the last words and for the engines to end."""


def serve(
    config: Annotated[Path, Parameter(help="Config file.")],
    /,
    *,
    backend: Annotated[str | None, Parameter(help="Name of an entry, or a kind; else the config's own.")] = None,
    host: Annotated[str | None, Parameter(help="Instead of the config's server.host.")] = None,
    port: Annotated[int | None, Parameter(help="Instead of the config's server.port; 0 takes a free one.")] = None,
    fd: Annotated[int | None, Parameter(help="Serve on this inherited listening socket.")] = None,
    capture: Annotated[
        Path | None,
        Parameter(help="Write the traffic to this new file, without texts: instants, lengths, hashes of beginnings."),
    ] = None,
    capture_block_tokens: Annotated[int, Parameter(help="Tokens of a block that the capture hashes.")] = BLOCK_TOKENS,
    die_with_parent: Annotated[bool, Parameter(help="End when the parent process does.", negative="")] = False,
) -> int:
    """Serve a backend through the OpenAI API until SIGTERM or Ctrl-C; running requests may end first."""
    if die_with_parent:
        _die_with_parent()
    hangups = Hangups()
    loaded = load_config(config)
    if loaded.gateway is None or backend is not None:
        hangups.give_up()
    given = {"host": host, "port": port}
    server = overridden(loaded.server, {key: value for key, value in given.items() if value is not None}, path="server")
    listener = _listener(server.host, server.port, fd)
    log = make_logger()
    traffic = None if capture is None else _capture(capture, capture_block_tokens, log)
    gateway = app_from_config(loaded, backend, log=log, capture=traffic)
    return Serving(gateway, listener, shutdown_grace_s=loaded.server.shutdown_grace_s, hangups=hangups).run()


def _capture(path: Path, block_tokens: int, log: FilteringBoundLogger) -> TrafficCapture:
    if block_tokens < 1:
        raise ConfigError(f"--capture-block-tokens is {block_tokens}", expected="a number of at least 1")
    salt = os.environ.get(SALT_VARIABLE, "").encode()
    return TrafficCapture(path, block_tokens=block_tokens, salt=sha256(salt).digest() if salt else None, log=log)


def _listener(host: str, port: int, fd: int | None) -> socket.socket:
    """A listening socket: ours, or the one that was inherited. Raises ConfigError."""
    if fd is not None:
        try:
            return socket.socket(fileno=fd)
        except OSError as error:
            raise ConfigError(f"--fd {fd} is no socket: {error.strerror}", expected="a listening socket") from error
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host} port {port}: {error.strerror}", path="server", expected="a free port"
        ) from error


@dataclass(slots=True)
class Serving:
    """One server run: listen, say when ready, drain on a signal, close the backend."""

    gateway: Gateway
    listener: socket.socket
    shutdown_grace_s: float
    hangups: Hangups

    def run(self) -> int:
        """0 after a signal; raises what made the backend's start fail, and EngineDied when it is dead for good."""
        config = uvicorn.Config(
            self.gateway,
            http=bounded_protocol(self.gateway.served.bounds),
            loop="none",
            ws="none",
            lifespan="on",
            access_log=False,
            log_level="warning",
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=math.ceil(self.shutdown_grace_s) + LAST_WORDS_S,
        )
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            server = _Server(config, self.gateway, grace_s=self.shutdown_grace_s)
            runner.run(self._serve(server))
        return 0

    async def _serve(self, server: _Server) -> None:
        serving = asyncio.create_task(server.serve(sockets=[self.listener]))
        announcing = asyncio.create_task(self._announce(server))
        await asyncio.wait({serving, announcing}, return_when=asyncio.FIRST_COMPLETED)
        failure = announcing.exception() if announcing.done() else None
        announcing.cancel()
        if failure is not None:
            server.should_exit = True
        await serving
        if failure is not None:
            raise failure

    async def _announce(self, server: _Server) -> None:
        """Print the one line that scripts wait for, then watch. Raises StartFailed and its like, later EngineDied."""
        models = self.gateway.served.models
        await server.is_listening.wait()
        url = _url(self.listener)  # a signal may close it meanwhile
        self.hangups.hand_over()
        await models.wait_until_ready()
        rarely_collected()
        unlisted_generators()
        print(f"ready: {url} serves {', '.join(models.names())}", flush=True)
        reason = await models.wait_until_dead()
        raise EngineDied(f"the backend is dead, so the server ends: {reason}; start it again")


class _Server(uvicorn.Server):
    """uvicorn raises the caught signal again after a clean end; here that end is exit code 0.

    Where uvicorn would cut off what is still running after the grace, that is ended with an error of its own before;
    a second signal ends it so at once.
    """

    def __init__(self, config: uvicorn.Config, gateway: Gateway, *, grace_s: float) -> None:
        super().__init__(config)
        self._gateway, self._grace_s = gateway, grace_s
        self.is_listening = asyncio.Event()
        self._is_urgent = asyncio.Event()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self.should_exit:
            self._is_urgent.set()
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Raises what kept the application from beginning, of which uvicorn keeps only the message."""
        try:
            await super().startup(sockets)
        except SystemExit:
            if self._gateway.start_failure is None:
                raise
            raise self._gateway.start_failure from None
        self.is_listening.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        timer = asyncio.get_running_loop().call_later(self._grace_s, self._gateway.end_open_requests)
        ending = asyncio.create_task(super().shutdown(sockets))
        urgent = asyncio.create_task(self._is_urgent.wait())
        try:
            await asyncio.wait({ending, urgent}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                await self._hurry(ending)
            if not ending.cancelled():
                await ending
        finally:
            timer.cancel()
            urgent.cancel()

    async def _hurry(self, ending: asyncio.Task[None]) -> None:
        """What has not ended then ends with this process: no engine of ours outlives it."""
        self._gateway.end_open_requests()
        await asyncio.wait({ending}, timeout=HURRY_S)
        ending.cancel()
        await asyncio.wait({ending})

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
