"""However the process that owns an engine ends, the engine ends with it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from launch_fakes import Reports, wait_for_its_end

OWNER = """
import asyncio, os, signal, sys
from launch_fakes import context_with, script, server_of

async def main(engine, port, ending):
    server = server_of(script(engine, port), context=context_with(stop_timeout_s=float(os.environ["GRACE"])))
    await server.launch()
    if ending == "fork" and os.fork() == 0:
        signal.pause()  # with a copy of every descriptor of ours
    try:
        if ending == "raise":
            sys.stdin.readline()
            raise RuntimeError("a fault of ours")
        await asyncio.Event().wait()
    finally:
        if ending == "stop":
            await server.stop()
            print("stopped", flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


class Owner:
    def __init__(self, engine: str, reports: Reports, *, ending: str = "wait", grace_s: float = 0.2) -> None:
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent), "GRACE": str(grace_s)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, engine, str(reports.port), ending],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def end(self) -> tuple[str, str]:
        out, err = self.process.communicate(timeout=30)
        return out.decode(), err.decode()


@pytest.mark.parametrize("engine", ["graceful", "stubborn"])
def test_kill_9_of_the_owner_ends_the_engine(engine: str):
    async def main() -> None:
        async with Reports() as reports:
            owner = Owner(engine, reports)
            started = await reports.next()
            supervisor = os.pidfd_open(os.getpgid(started.pid))
            owner.process.kill()
            owner.end()
            said = await started.gone()
            assert said == (["ended gracefully"] if engine == "graceful" else [])
            await asyncio.to_thread(wait_for_its_end, supervisor)

    asyncio.run(main())


def test_a_process_that_the_owner_forked_does_not_keep_the_engine_alive():
    async def main() -> None:
        async with Reports() as reports:
            owner = Owner("graceful", reports, ending="fork")
            engine = await reports.next()
            owner.process.kill()
            await engine.gone()
            os.killpg(owner.process.pid, signal.SIGKILL)  # the fork
            owner.end()

    asyncio.run(main())


def test_kill_9_of_the_owner_ends_grandchildren_in_sessions_of_their_own():
    async def main() -> None:
        async with Reports() as reports:
            owner = Owner("leave_group", reports)
            grandchild, engine = await reports.named("grandchild", "parent")
            owner.process.kill()
            owner.end()
            await engine.gone()
            await grandchild.gone()

    asyncio.run(main())


def test_a_ctrl_c_in_the_terminal_reaches_the_engine_only_through_us():
    async def main() -> None:
        async with Reports() as reports:
            owner = Owner("graceful", reports, ending="stop")
            engine = await reports.next()
            os.killpg(owner.process.pid, signal.SIGINT)  # what a terminal does: to the whole group in front
            assert await engine.gone() == ["ended gracefully"]
            out, err = await asyncio.to_thread(owner.end)
            assert out == "stopped\n"
            assert "KeyboardInterrupt" in err

    asyncio.run(main())


def test_an_exception_that_nobody_catches_ends_the_engine():
    async def main() -> None:
        async with Reports() as reports:
            owner = Owner("graceful", reports, ending="raise")
            engine = await reports.next()
            _, err = await asyncio.to_thread(owner.end)  # and its standard input
            assert "a fault of ours" in err
            await engine.gone()

    asyncio.run(main())
