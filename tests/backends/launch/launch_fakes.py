"""What the tests of launched servers share: contexts, commands, and a place where engines report."""

from __future__ import annotations

import asyncio
import os
import selectors
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from enginebay.backend import BackendContext, LaunchPlan
from enginebay.backends.http_engine.options import ServerOptions
from enginebay.backends.launch import LaunchedServer, launched_server
from enginebay.clock import MonotonicClock

SCRIPTS = Path(__file__).parent / "engine_scripts.py"
Run = Callable[[Awaitable[None]], None]

PORT = "{port}"
"""In a command of these tests: the port that was chosen."""


def script(name: str, *arguments: object) -> tuple[str, ...]:
    return (sys.executable, str(SCRIPTS), name, *map(str, arguments))


def context_with(*, venv: str | None = None, environment: Mapping[str, str] | None = None, **options: object):
    return BackendContext(
        name="mine",
        model="smollm2-135m",
        options=ServerOptions.model_validate(options),
        settings={},
        clock=MonotonicClock(),
        mode="managed",
        venv=venv,
        environment=environment or {},
    )


def server_of(command: tuple[str, ...], *, context: BackendContext | None = None, **more: object) -> LaunchedServer:
    plan = LaunchPlan(outcomes=(), **{key: more.pop(key) for key in ("files",) if key in more})  # type: ignore[arg-type]
    more.setdefault("fetch", lambda model: None)

    def with_port(port: int) -> LaunchPlan:
        return replace(plan, command=tuple(word.replace(PORT, str(port)) for word in command))

    return launched_server(context or context_with(), plan, with_port=with_port, **more)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Report:
    text: str
    pid: int
    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter

    def go_on(self) -> None:
        self._writer.write(b"go on\n")

    async def next_line(self) -> str:
        async with asyncio.timeout(20):
            return (await self._reader.readline()).decode().strip()

    async def gone(self) -> list[str]:
        """When the process has ended; returns what it said until then."""
        async with asyncio.timeout(20):
            return (await self._reader.read()).decode().splitlines()


class Reports:
    """`async with`: listens for engines that report."""

    async def __aenter__(self) -> Reports:
        self._arrived: asyncio.Queue[Report] = asyncio.Queue()
        self._writers: list[asyncio.StreamWriter] = []
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()
        await self._server.wait_closed()

    async def next(self) -> Report:
        async with asyncio.timeout(20):
            return await self._arrived.get()

    async def named(self, *texts: str) -> list[Report]:
        """As many as have these texts, in their order."""
        arrived = {report.text: report for report in [await self.next() for _ in texts]}
        return [arrived[text] for text in texts]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        text, _, pid = (await reader.readline()).decode().strip().rpartition(" ")
        self._arrived.put_nowait(Report(text, int(pid), reader, writer))


def wait_for_its_end(pidfd: int) -> None:
    with selectors.DefaultSelector() as selector:
        selector.register(pidfd, selectors.EVENT_READ)
        assert selector.select(timeout=20), "it is still there"
    os.close(pidfd)
