"""An engine without a server of its own, behind our thin server in a child process: none is measured in process.

The child gets a listening socket that we bound, so its port is known and taken from the first instant. It lives in a
process group of its own (Ctrl-C reaches us, not it) and dies with us, also after `kill -9`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from enginebay.backend import Backend
from enginebay.errors import BackendError, StartFailed

BACKLOG = 2048
LOG_LINES = 200
SHOWN_LINES = 20
STOP_TIMEOUT_S = 20.0
CAN_DIE_WITH_PARENT = os.name == "posix"
"""Elsewhere `serve` refuses the option."""


def serve_command(config: Path, name: str) -> tuple[str, ...]:
    """Without the socket, which is only known when it is bound."""
    command = (sys.executable, "-m", "enginebay.cli", "serve", str(config), "--backend", name)
    return (*command, "--die-with-parent") if CAN_DIE_WITH_PARENT else command


@asynccontextmanager
async def hosted(
    command: Sequence[str],
    *,
    name: str,
    connect: Callable[[str], Backend],
    start_timeout_s: float,
    stop_timeout_s: float = STOP_TIMEOUT_S,
) -> AsyncGenerator[Backend, None]:
    """Run `command --fd N`, start `connect(url)` against it, and leave no process behind.

    Raises StartFailed with the child's last lines if it ends, or is not ready in time.
    """
    child = await HostedServer.launch(command, name=name)
    try:
        backend = connect(child.url)
        try:
            await child.wait_for(backend.start(), timeout_s=start_timeout_s)
            yield backend
        finally:
            await backend.aclose()
    finally:
        await child.stop(stop_timeout_s)


class HostedServer:
    def __init__(self, process: asyncio.subprocess.Process, *, name: str, url: str) -> None:
        self.url = url
        self._process = process
        self._name = name
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._reading = asyncio.create_task(self._read_log())

    @classmethod
    async def launch(cls, command: Sequence[str], *, name: str) -> HostedServer:
        with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            process = await asyncio.create_subprocess_exec(
                *command,
                "--fd",
                str(listener.fileno()),
                pass_fds=(listener.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
            # Our copy of the socket is closed here: when the child dies, its clients are told at once.
        return cls(process, name=name, url=url)

    @property
    def log_tail(self) -> list[str]:
        return list(self._log)[-SHOWN_LINES:]

    async def wait_for(self, ready: Coroutine[None, None, None], *, timeout_s: float) -> None:
        """Await `ready`, unless the child ends or time runs out before."""
        starting = asyncio.ensure_future(ready)
        ending = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait({starting, ending}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                await self._reading
                raise self._start_failed(f"its server ended with code {ending.result()} before it was ready")
            if not starting.done():
                raise self._start_failed(f"it was not ready within {timeout_s:g} s")
            starting.result()
        except BackendError as error:
            if isinstance(error, StartFailed) and error.log_tail:
                raise
            raise self._start_failed(str(error)) from error
        finally:
            for task in (starting, ending):
                task.cancel()
            await asyncio.gather(starting, ending, return_exceptions=True)

    async def stop(self, timeout_s: float) -> None:
        """SIGTERM, then SIGKILL to the whole group; returns when the process is gone, also when cancelled."""
        stopping = asyncio.ensure_future(self._stop(timeout_s))
        try:
            await asyncio.shield(stopping)
        except asyncio.CancelledError:
            self._signal(signal.SIGKILL)
            await stopping
            raise

    async def _stop(self, timeout_s: float) -> None:
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), timeout_s)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            await self._process.wait()
        await self._reading

    def _signal(self, number: signal.Signals) -> None:
        if self._process.returncode is None:
            os.killpg(self._process.pid, number)

    async def _read_log(self) -> None:
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            self._log.append(line.decode(errors="replace").rstrip())

    def _start_failed(self, problem: str) -> StartFailed:
        return StartFailed(
            f"backend {self._name!r} did not start: {problem}", backend=self._name, log_tail=self.log_tail
        )
