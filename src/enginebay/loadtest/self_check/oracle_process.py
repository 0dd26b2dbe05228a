"""The oracle in a process of its own: launched, scripted and asked from here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec

from enginebay.backends.worker.channel import ChildChannel, ParentChannel
from enginebay.backends.worker.process import WorkerProcess
from enginebay.clock import MonotonicClock
from enginebay.errors import LoadTestError
from enginebay.event_loop import new_event_loop
from enginebay.loadtest.garbage import young_garbage_only
from enginebay.loadtest.self_check.oracle import EXCHANGES_PATH, SCRIPT_PATH, Oracle
from enginebay.loadtest.self_check.script import Exchange, OracleScript
from enginebay.wire.http_client import HttpClient

STOP_S = 2.0


class OracleProcess:
    def __init__(self, url: str, control: HttpClient, *, pid: int) -> None:
        self.url, self.pid = url, pid
        self._control = control

    async def play(self, script: OracleScript) -> None:
        """For the requests from now on. What was exchanged before is forgotten."""
        response = await self._control.request("POST", SCRIPT_PATH, body=msgspec.json.encode(script))
        if response.status != 200:
            raise LoadTestError(f"the oracle does not take {script}: {response.body.decode(errors='replace')}")

    async def exchanges(self) -> dict[str, Exchange]:
        """By request id."""
        response = await self._control.request("GET", EXCHANGES_PATH)
        exchanges = msgspec.msgpack.decode(response.body, type=list[Exchange])
        return {exchange.request_id: exchange for exchange in exchanges}


@asynccontextmanager
async def oracle_process() -> AsyncGenerator[OracleProcess, None]:
    """It dies with this process, also after `kill -9`. Raises StartFailed with its last words."""
    ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def on_frame(frame: bytes) -> None:
        if not ready.done():
            ready.set_result(frame.decode())

    def on_ended() -> None:
        if not ready.done():
            ready.set_exception(process.start_failed(f"the oracle {process.how_it_ended()} before it listened"))

    process = WorkerProcess(f"{__name__}:serve", name="oracle", on_frame=on_frame, on_ended=on_ended)
    await process.launch()
    try:
        url = await ready
        control = HttpClient(url, clock=MonotonicClock(), max_connections=1)
        try:
            yield OracleProcess(url, control, pid=process.pid or 0)
        finally:
            await control.aclose()
    finally:
        ready.cancel()
        await process.stop(grace_s=STOP_S)


def serve(channel: ChildChannel) -> None:
    """The child: tells its address, and serves until the channel is closed."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner, young_garbage_only():
        runner.run(_serve(channel))


async def _serve(channel: ChildChannel) -> None:
    parent_gone = asyncio.Event()
    parent = ParentChannel(on_frame=lambda frame: None, on_closed=parent_gone.set)
    await asyncio.get_running_loop().create_unix_connection(lambda: parent, sock=channel.release())
    parent.send((await Oracle().listen()).encode())
    await parent_gone.wait()
