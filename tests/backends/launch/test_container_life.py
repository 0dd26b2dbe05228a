"""The life of a container, with a script in place of `docker`: no container runs here.

That shows which commands are run and when; that Docker does what they say is not shown.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import psutil
import pytest
from launch_fakes import Reports, Run, context_with, script, server_of, wait_for_its_end

from enginebay.backends.launch import LaunchedServer
from enginebay.errors import StartFailed


@pytest.fixture
def docker(tmp_path: Path) -> Path:
    program = tmp_path / "docker"
    fake = Path(__file__).parent / "fake_docker.py"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {fake} {tmp_path} "$@"\n')
    program.chmod(0o755)
    return program


def container_of(docker: Path, *command: str, stop_timeout_s: float = 0.3) -> LaunchedServer:
    context = context_with(container_runtime=str(docker), stop_timeout_s=stop_timeout_s)
    return server_of((str(docker), "run", "--rm", "-p", "1:2", "image:1", *command), context=context)


def calls(docker: Path) -> list[list[str]]:
    return [json.loads(line) for line in (docker.parent / "calls").read_text().splitlines()]


def test_a_container_has_a_name_ends_gracefully_and_is_removed(run: Run, docker: Path):
    async def main() -> None:
        async with Reports() as reports:
            server = container_of(docker, *script("graceful", reports.port), stop_timeout_s=60)
            await server.launch()
            engine = await reports.next()
            await server.stop()
            assert await engine.gone() == ["ended gracefully"]
            assert server.how_it_ended() == "ended with exit code 0"

    run(main())
    started, removed = calls(docker)
    name = started[started.index("--name") + 1]
    assert re.fullmatch(r"enginebay-mine-[0-9a-f]{8}", name)
    assert started[:6] == ["run", "--name", name, "--rm", "-p", "1:2"]
    assert removed == ["rm", "-f", name]


def test_a_container_that_ignores_sigterm_is_removed_by_force(docker: Path):
    async def main() -> None:
        async with Reports() as reports:
            server = container_of(docker, *script("stubborn", reports.port))
            await server.launch()
            engine = await reports.next()
            await server.stop()
            await engine.gone()

    asyncio.run(main())
    assert calls(docker)[-1][:2] == ["rm", "-f"]


@pytest.mark.parametrize("victim", ["client", "supervisor"])
def test_a_container_whose_client_or_supervisor_was_killed_is_removed(docker: Path, victim: str):
    async def main() -> None:
        async with Reports() as reports:
            server = container_of(docker, *script("stubborn", reports.port))
            await server.launch()
            engine = await reports.next()
            assert server.pid is not None
            os.kill(client_of(engine.pid) if victim == "client" else server.pid, signal.SIGKILL)
            await engine.gone()
            await server.wait_ended()
            await server.stop()

    asyncio.run(main())
    assert calls(docker)[-1][:2] == ["rm", "-f"]


def client_of(pid: int) -> int:
    return psutil.Process(pid).ppid()


OWNER = """
import asyncio, sys
from pathlib import Path
from launch_fakes import script
from test_container_life import container_of

async def main():
    await container_of(Path(sys.argv[1]), *script("stubborn", sys.argv[2])).launch()
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_container_ends_when_its_owner_was_killed(docker: Path):
    async def main() -> None:
        async with Reports() as reports:
            owner = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", OWNER, str(docker), str(reports.port)),
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            )
            engine = await reports.next()
            supervisor = os.pidfd_open(os.getpgid(client_of(engine.pid)))
            owner.kill()
            await owner.wait()
            await engine.gone()
            await asyncio.to_thread(wait_for_its_end, supervisor)

    asyncio.run(main())
    assert calls(docker)[-1][:2] == ["rm", "-f"]


def test_a_runtime_that_is_not_there_is_a_failed_start():
    context = context_with(container_runtime="no-such-docker")
    server = server_of(("no-such-docker", "run", "--rm", "image:1"), context=context)
    with pytest.raises(StartFailed, match="there is no program 'no-such-docker' on the path"):
        asyncio.run(server.launch())
