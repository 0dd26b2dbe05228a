import asyncio
import os
import select
import sys
from pathlib import Path

import pytest
from loadtest_fakes import ScriptedBackend, VirtualClock

from enginebay.errors import BackendUnavailable, StartFailed
from enginebay.loadtest.hosting import HostedServer, hosted, serve_command

CHILD = """
import os, signal, socket, sys, time
mode, fd = sys.argv[1], int(sys.argv[sys.argv.index("--fd") + 1])
print("child", os.getpid(), "session", os.getsid(0), flush=True)
if mode == "dies":
    print("out of memory", file=sys.stderr, flush=True)
    sys.exit(7)
if mode == "talks":
    sys.stdout.write("x" * 1_000_000)
    print("end of a long line", flush=True)
if mode == "leaves":
    begun, ready = os.pipe()
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("left", os.getpid(), flush=True)
        os.write(ready, b".")
        time.sleep(600)
    os.read(begun, 1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
listener = socket.socket(fileno=fd)
while True:
    connection, _ = listener.accept()
    if mode != "silent":
        connection.sendall(f"{os.getpid()} {os.getsid(0)}".encode())
        connection.close()
"""


class Connecting(ScriptedBackend):
    """Ready when the child has answered with its process id and session."""

    def __init__(self, url: str) -> None:
        super().__init__(VirtualClock())
        self.port = int(url.rpartition(":")[2])
        self.pid = 0
        self.session = 0

    async def start(self) -> None:
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            try:
                self.pid, self.session = map(int, (await reader.read()).split())
            finally:
                writer.transport.abort()
        except OSError as error:
            raise BackendUnavailable("refused") from error


def host(mode: str, *, start_timeout_s: float = 30.0, stop_timeout_s: float = 30.0, connect=Connecting):
    return hosted(
        (sys.executable, "-c", CHILD, mode),
        name="mine",
        connect=connect,
        start_timeout_s=start_timeout_s,
        stop_timeout_s=stop_timeout_s,
    )


@pytest.mark.parametrize("can_die", [True, False])
def test_the_server_is_asked_to_die_with_us_where_it_can(monkeypatch, can_die) -> None:
    monkeypatch.setattr("enginebay.loadtest.hosting.CAN_DIE_WITH_PARENT", can_die)
    assert ("--die-with-parent" in serve_command(Path("some.yaml"), "mine")) is can_die


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def is_dead(pid: int) -> bool:
    """It was sent SIGKILL: the kernel may still be at it when the sender goes on."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([process], [], [], 10)[0])  # readable when it has ended
    finally:
        os.close(process)


def pid_in(lines) -> int:
    return next(int(line.split()[1]) for line in lines if line.startswith("child "))


def test_a_child_is_ready_on_a_port_of_its_own_in_a_session_of_its_own_and_gone_afterwards() -> None:
    async def main() -> None:
        async with host("answers") as backend:
            assert is_alive(backend.pid)
            assert backend.session == backend.pid != os.getsid(0)
        assert not is_alive(backend.pid)
        assert backend.is_closed

    asyncio.run(main())


def test_a_child_that_dies_is_told_at_once_with_its_last_lines() -> None:
    class NeverReady(Connecting):
        async def start(self) -> None:
            await asyncio.Event().wait()

    async def main() -> StartFailed:
        with pytest.raises(StartFailed, match="ended with code 7 before it was ready") as failure:
            async with host("dies", connect=NeverReady):
                pass
        return failure.value

    error = asyncio.run(main())
    assert error.backend == "mine"
    assert error.log_tail[-1] == "out of memory"
    assert not is_alive(pid_in(error.log_tail))


def test_a_child_that_is_not_ready_in_time_is_stopped() -> None:
    async def main() -> StartFailed:
        with pytest.raises(StartFailed, match="not ready within 1 s") as failure:
            async with host("silent", start_timeout_s=1.0):
                pass
        return failure.value

    error = asyncio.run(main())
    assert all(not is_alive(pid_in([line])) for line in error.log_tail if line.startswith("child "))


def test_a_child_whose_backend_gives_up_shows_the_childs_last_lines() -> None:
    class GivesUp(Connecting):
        async def start(self) -> None:
            await super().start()
            raise BackendUnavailable("HTTP 500 from /health")

    async def main() -> StartFailed:
        with pytest.raises(StartFailed, match="HTTP 500 from /health") as failure:
            async with host("answers", connect=GivesUp):
                pass
        return failure.value

    assert not is_alive(pid_in(asyncio.run(main()).log_tail))


def test_a_child_that_ignores_sigterm_is_killed() -> None:
    async def main() -> None:
        async with host("stubborn", stop_timeout_s=0.2) as backend:
            assert is_alive(backend.pid)
        assert not is_alive(backend.pid)

    asyncio.run(main())


def test_a_line_of_any_length_stops_nothing() -> None:
    # The child answers only when the whole line was taken out of its pipe.
    async def main() -> list[str]:
        child = await HostedServer.launch((sys.executable, "-c", CHILD, "talks"), name="mine")
        try:
            await child.wait_for(Connecting(child.url).start(), timeout_s=30)
        finally:
            await child.stop(30)
        return child.log_tail

    assert asyncio.run(main())[-1].endswith("xxxend of a long line")


def test_what_the_child_left_in_its_group_is_killed_too() -> None:
    async def main() -> list[str]:
        child = await HostedServer.launch((sys.executable, "-c", CHILD, "leaves"), name="mine")
        try:
            await child.wait_for(Connecting(child.url).start(), timeout_s=30)
        finally:
            await asyncio.wait_for(child.stop(30), timeout=20)
        return child.log_tail

    [left] = [int(line.split()[1]) for line in asyncio.run(main()) if line.startswith("left ")]
    assert is_dead(left)


def test_cancelling_leaves_no_child() -> None:
    async def main() -> int:
        opened: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def hold() -> None:
            async with host("answers") as backend:
                opened.set_result(backend.pid)
                await asyncio.Event().wait()

        holding = asyncio.create_task(hold())
        pid = await opened
        holding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await holding
        return pid

    assert not is_alive(asyncio.run(main()))


def test_an_error_inside_leaves_no_child() -> None:
    pids: list[int] = []

    async def main() -> None:
        async with host("answers") as backend:
            pids.append(backend.pid)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        asyncio.run(main())
    assert not is_alive(pids[0])
