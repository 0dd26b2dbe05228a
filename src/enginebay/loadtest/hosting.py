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
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from enginebay.backend import Backend
from enginebay.errors import BackendError, StartFailed

BACKLOG = 2048
LOG_LINES = 200
SHOWN_LINES = 20
STOP_TIMEOUT_S = 20.0
KILL_TIMEOUT_S = 5.0
"""After SIGKILL, and for the last lines: whoever holds the pipe then is nothing that we started."""
CHUNK_BYTES = 65536
MAX_LINE_BYTES = 4096
"""Of a longer line, the end is kept."""
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
    def __init__(self, process: asyncio.subprocess.Process, output: BinaryIO, *, name: str, url: str) -> None:
        """`output` becomes this object's own."""
        self.url = url
        self._process = process
        self._name = name
        self._log: deque[str] = deque(maxlen=LOG_LINES)
        self._reading = asyncio.create_task(self._read_log(output))

    @classmethod
    async def launch(cls, command: Sequence[str], *, name: str) -> HostedServer:
        with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            # A pipe of our own: with asyncio's, the child would count as running while anybody else holds its end.
            output, input_fd = os.pipe()
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    "--fd",
                    str(listener.fileno()),
                    pass_fds=(listener.fileno(),),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=input_fd,
                    stderr=asyncio.subprocess.STDOUT,
                    start_new_session=True,
                )
            except BaseException:
                os.close(output)
                raise
            finally:
                os.close(input_fd)
            # Our copy of the socket is closed here: when the child dies, its clients are told at once.
        return cls(process, os.fdopen(output, "rb", buffering=0), name=name, url=url)

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
                await self._read_rest()
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
        ending = asyncio.ensure_future(self._process.wait())
        self._signal(signal.SIGTERM)
        await asyncio.wait({ending}, timeout=timeout_s)
        # Always: the server may have ended and left something of its group behind.
        self._signal(signal.SIGKILL)
        await asyncio.wait({ending}, timeout=KILL_TIMEOUT_S)
        ending.cancel()
        await self._read_rest()

    def _signal(self, number: signal.Signals) -> None:
        """To the whole group, which may have members when its leader is gone."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    async def _read_rest(self) -> None:
        await asyncio.wait({self._reading}, timeout=KILL_TIMEOUT_S)
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read_log(self, output: BinaryIO) -> None:
        """Chunks, not lines: a line may have any length, and the pipe must never fill."""
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), output
        )
        unfinished = b""
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                *lines, unfinished = (unfinished + chunk).split(b"\n")
                self._log.extend(_text(line) for line in lines)
                unfinished = unfinished[-MAX_LINE_BYTES:]
        finally:
            transport.close()
            if unfinished:
                self._log.append(_text(unfinished))

    def _start_failed(self, problem: str) -> StartFailed:
        return StartFailed(
            f"backend {self._name!r} did not start: {problem}", backend=self._name, log_tail=self.log_tail
        )


def _text(line: bytes) -> str:
    return line[-MAX_LINE_BYTES:].decode(errors="replace").rstrip()
