"""A launched server from its command to its end, with small programs in place of engines."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from pathlib import Path

import pytest
from launch_fakes import PORT, Reports, Run, context_with, script, server_of

from enginebay.backend import FILES
from enginebay.errors import ConfigError, ModelNotFound, StartFailed


def test_the_command_runs_with_a_free_port_and_ends_gracefully(run: Run):
    async def main() -> None:
        async with Reports() as reports:
            server = server_of(script("graceful", reports.port))
            url = await server.launch()
            assert url.startswith("http://127.0.0.1:")
            engine = await reports.next()
            assert (server.is_alive, server.how_it_ended()) == (True, "is running")
            assert engine.pid != server.pid == os.getpgid(engine.pid) == os.getsid(engine.pid)
            await server.stop()
            assert await engine.gone() == ["ended gracefully"]
            assert (server.is_alive, server.how_it_ended()) == (False, "ended with exit code 0")
            await server.stop()

    run(main())


def test_an_engine_that_ignores_sigterm_is_killed_when_its_time_is_over(run: Run):
    async def main() -> None:
        async with Reports() as reports:
            server = server_of(script("stubborn", reports.port), context=context_with(stop_timeout_s=0.2))
            await server.launch()
            engine = await reports.next()
            await server.stop()
            assert await engine.gone() == []
            assert server.how_it_ended() == "was killed by SIGKILL"

    run(main())


def test_a_grandchild_that_left_the_group_is_ended_too(run: Run):
    async def main() -> None:
        async with Reports() as reports:
            server = server_of(script("leave_group", reports.port), context=context_with(stop_timeout_s=0.2))
            await server.launch()
            grandchild, parent = await reports.named("grandchild", "parent")
            assert os.getsid(grandchild.pid) != server.pid
            await server.stop()
            await parent.gone()
            await grandchild.gone()

    run(main())


def test_children_of_an_engine_that_has_ended_end_as_well(run: Run):
    async def main() -> None:
        async with Reports() as reports:
            server = server_of(script("leave_child", reports.port))
            await server.launch()
            child, parent = await reports.named("child", "parent")
            parent.go_on()
            await server.wait_ended()
            await child.gone()
            assert server.how_it_ended() == "ended with exit code 0"
            await server.stop()

    run(main())


@pytest.mark.parametrize("victim", ["supervisor", "engine"])
def test_whoever_is_killed_the_rest_ends_with_it(run: Run, victim: str):
    async def main() -> None:
        async with Reports() as reports:
            server = server_of(script("leave_group", reports.port), context=context_with(stop_timeout_s=0.2))
            await server.launch()
            grandchild, engine = await reports.named("grandchild", "parent")
            assert server.pid is not None
            os.kill(server.pid if victim == "supervisor" else engine.pid, signal.SIGKILL)
            await server.wait_ended()
            await engine.gone()
            await grandchild.gone()
            assert server.how_it_ended() == "was killed by SIGKILL"
            assert "memory ran out" in str(server.start_failed("it ended"))
            await server.stop()

    run(main())


def test_kill_is_a_crash_of_everything(run: Run):
    async def main() -> None:
        async with Reports() as reports:
            server = server_of(script("leave_group", reports.port), context=context_with(stop_timeout_s=0.2))
            await server.launch()
            started = [await reports.next(), await reports.next()]
            server.kill()
            for process in started:
                await process.gone()
            await server.wait_ended()
            await server.stop()

    run(main())


def test_a_stop_that_is_cancelled_goes_on_without_us(run: Run):
    async def main() -> None:
        async with Reports() as reports:
            server = server_of(script("stubborn", reports.port), context=context_with(stop_timeout_s=0.2))
            await server.launch()
            engine = await reports.next()
            stopping = asyncio.create_task(server.stop())
            await asyncio.sleep(0)
            stopping.cancel()
            await asyncio.wait({stopping})
            await engine.gone()
            await server.wait_ended()
            assert stopping.cancelled()

    run(main())


def test_a_launch_that_is_cancelled_leaves_nothing(run: Run):
    async def cancelled_after(num_steps: int, port: int) -> None:
        # A lost SIGTERM would be waited for longer than a test may take.
        server = server_of(script("hang", port), context=context_with(stop_timeout_s=1000))
        launching = asyncio.create_task(server.launch())
        for _ in range(num_steps):
            await asyncio.sleep(0)
        launching.cancel()
        await asyncio.wait({launching})
        await server.stop()
        assert not server.is_alive

    async def main() -> None:
        async with Reports() as reports:
            for num_steps in (0, 1, 2, 5, 10, 20, 40):
                await cancelled_after(num_steps, reports.port)

    run(main())


def test_a_launch_cancelled_while_the_model_is_fetched_does_not_wait_for_it():
    released = threading.Event()

    async def main() -> None:
        begun, loop = asyncio.Event(), asyncio.get_running_loop()

        def fetch(model: str) -> None:
            loop.call_soon_threadsafe(begun.set)
            released.wait(20)

        server = server_of(script("say"), fetch=fetch)
        launching = asyncio.create_task(server.launch())
        await begun.wait()
        launching.cancel()
        await asyncio.wait({launching})
        await server.stop()

    asyncio.run(main())
    assert not released.is_set()
    released.set()


def test_stop_before_a_launch_is_fine():
    server = server_of(script("say"))
    asyncio.run(server.stop())
    assert server.how_it_ended() == "was not started"


def test_the_files_of_a_plan_are_there_while_it_runs(run: Run):
    async def main() -> None:
        server = server_of(script("show_file", f"{FILES}/sub/build.yaml"), files={"sub/build.yaml": "max_batch: 8"})
        await server.launch()
        await server.wait_ended()
        path, _, content = server.log_tail()[0].partition(" ")
        assert content == "max_batch: 8"
        assert not Path(path).parent.parent.exists()
        await server.stop()

    run(main())


def test_the_log_is_kept_in_the_file_and_secrets_in_what_we_show_of_it_are_masked(run: Run, tmp_path: Path):
    async def main() -> None:
        log_file = tmp_path / "engine.log"
        context = context_with(log_file=str(log_file), environment={"HF_TOKEN": "hf-secret", "PLAIN": "shown"})
        command = script("say", "the key is sk-4711, the token hf-secret, and PLAIN is shown")
        server = server_of(command, context=context, environment={"ENGINE_KEY": "sk-4711"})
        await server.launch()
        await server.wait_ended()
        assert server.log_tail() == ["the key is ***, the token ***, and PLAIN is shown"]
        assert "sk-4711" not in str(server.start_failed("it ended"))
        assert log_file.read_text() == "the key is sk-4711, the token hf-secret, and PLAIN is shown\n"
        await server.stop()

    run(main())


def test_a_log_file_that_cannot_be_written_is_told_before_anything_runs(tmp_path: Path):
    server = server_of(script("say"), context=context_with(log_file=str(tmp_path / "no" / "engine.log")))
    with pytest.raises(ConfigError, match=r"options\.log_file: .*cannot be written to"):
        asyncio.run(server.launch())


def test_a_port_in_use_is_told_before_anything_runs():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = server_of(script("serve", PORT), context=context_with(port=port))
        with pytest.raises(StartFailed, match=f"port {port} of 127.0.0.1 is in use") as failed:
            asyncio.run(server.launch())
    assert "options.port" in (failed.value.likely_cause or "")


def test_a_model_that_cannot_be_had_is_a_failed_start():
    def fetch(model: str) -> None:
        raise ModelNotFound("it is not in the cache; pull it")

    with pytest.raises(StartFailed, match="mine: it is not in the cache; pull it"):
        asyncio.run(server_of(script("say"), fetch=fetch).launch())


@pytest.mark.parametrize(("code", "ending"), [("0", "exit code 0"), ("3", "exit code 3"), ("255", "exit code 255")])
def test_the_exit_code_is_the_engines(run: Run, code: str, ending: str):
    async def main() -> None:
        server = server_of(script("die", "last words", code))
        await server.launch()
        await server.wait_ended()
        assert server.how_it_ended() == f"ended with {ending}"
        assert server.log_tail() == ["last words"]
        await server.stop()

    run(main())
