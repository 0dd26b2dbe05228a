"""A worker's whole life as its parent sees it, on both event loops."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import psutil
import pytest
import uvloop

from enginebay.backends.worker.process import WorkerProcess
from enginebay.backends.worker.start_failure import likely_cause
from enginebay.errors import StartFailed

PYTHONPATH = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
"""The workers of these tests, and beside them the very code that is tested."""

Run = Callable[[Awaitable[None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    def run_and_look_for_leftovers(main: Awaitable[None]) -> None:
        children = psutil.Process().children()

        async def whole() -> None:
            await main
            assert asyncio.all_tasks() == {asyncio.current_task()}

        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(whole())
        assert psutil.Process().children() == children

    return run_and_look_for_leftovers


class Watched:
    """A worker with its frames and its end."""

    def __init__(self, worker: str, **options: object) -> None:
        self.frames: asyncio.Queue[bytes] = asyncio.Queue()
        self.ended = asyncio.Event()
        self.process = WorkerProcess(
            f"stubborn_workers:{worker}",
            name="engine",
            on_frame=self.frames.put_nowait,
            on_ended=self.ended.set,
            environment={"PYTHONPATH": PYTHONPATH},
            **options,  # type: ignore[arg-type]
        )


def is_gone(pid: int) -> bool:
    """Nobody may be there to wait for an orphan: a zombie is gone too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_until_gone(pid: int, timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_gone(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


def test_frames_of_any_size_come_back_in_order(run: Run):
    async def main() -> None:
        watched = Watched("echo")
        await watched.process.launch()
        payloads = [b"", b"small", os.urandom(5_000_000), b"after"]
        for payload in payloads:
            watched.process.send(payload)
        assert [await watched.frames.get() for _ in payloads] == payloads
        await watched.process.stop(grace_s=30)
        assert watched.process.returncode == 0
        assert watched.ended.is_set()
        await watched.process.stop(grace_s=30)

    run(main())


def test_the_last_words_of_a_crash_are_kept_and_no_more_than_the_last(run: Run, tmp_path: Path):
    async def main() -> None:
        watched = Watched("talk_and_crash", log_file=tmp_path / "engine.log")
        await watched.process.launch()
        await watched.ended.wait()
        error = watched.process.start_failed("it failed")
        assert error.log_tail[-1] == "RuntimeError: the last word"
        assert len(error.log_tail) == 20
        assert watched.process.how_it_ended() == "ended with exit code 1"
        assert "line 0\n" in (tmp_path / "engine.log").read_text()

    run(main())


def test_an_error_of_ours_is_told_without_a_traceback_and_its_cause_is_named(run: Run):
    async def main() -> None:
        watched = Watched("refuse_setting")
        await watched.process.launch()
        await watched.ended.wait()
        error = watched.process.start_failed("it failed")
        assert error.log_tail == ("enginebay.errors.ConfigError: engine.policy: it is wrong",)
        assert error.likely_cause is not None
        assert "setting" in error.likely_cause

    run(main())


def test_a_worker_that_does_not_end_is_killed_with_its_children(run: Run):
    async def main() -> None:
        watched = Watched("ignore_everything")
        await watched.process.launch()
        grandchild = int(await watched.frames.get())
        await watched.process.stop(grace_s=0.05)
        assert watched.process.returncode == -signal.SIGKILL
        wait_until_gone(grandchild)

    run(main())


def test_children_of_a_worker_that_ended_are_killed(run: Run):
    async def main() -> None:
        watched = Watched("leave_a_child")
        await watched.process.launch()
        grandchild = int(await watched.frames.get())
        await watched.ended.wait()
        wait_until_gone(grandchild)
        assert watched.process.returncode == 0

    run(main())


def test_the_end_is_told_though_a_daemon_of_the_worker_holds_on_to_its_log(run: Run):
    async def main() -> None:
        watched = Watched("leave_a_daemon")
        await watched.process.launch()
        daemon = int(await watched.frames.get())
        await asyncio.wait_for(watched.ended.wait(), 20)
        assert not watched.process.is_alive
        os.kill(daemon, signal.SIGKILL)

    run(main())


def test_an_interpreter_that_is_not_there_is_a_failed_start(run: Run):
    async def main() -> None:
        watched = Watched("echo", python="/nowhere/bin/python")
        with pytest.raises(StartFailed, match="/nowhere/bin/python"):
            await watched.process.launch()
        await watched.process.stop(grace_s=1)
        assert not watched.process.is_alive

    run(main())


def test_a_crash_is_named_by_its_signal(run: Run):
    async def main() -> None:
        watched = Watched("abort")
        await watched.process.launch()
        await watched.ended.wait()
        assert watched.process.start_failed("it failed").likely_cause == "it crashed with SIGABRT"

    run(main())


def test_stopping_while_it_is_launched_leaves_no_child(run: Run):
    async def main() -> None:
        for num_steps in range(6):
            watched = Watched("echo")
            launching = asyncio.create_task(watched.process.launch())
            for _ in range(num_steps):
                await asyncio.sleep(0)
            await watched.process.stop(grace_s=0)
            await asyncio.gather(launching, return_exceptions=True)
            assert not watched.process.is_alive

    run(main())


def test_a_cancelled_launch_that_is_killed_leaves_no_child(run: Run, caplog: pytest.LogCaptureFixture):
    async def main() -> None:
        for num_steps in range(6):
            watched = Watched("echo")
            launching = asyncio.create_task(watched.process.launch())
            for _ in range(num_steps):
                await asyncio.sleep(0)
            launching.cancel()
            await asyncio.gather(launching, return_exceptions=True)
            watched.process.kill()
            await watched.process.stop(grace_s=0)
            assert not watched.process.is_alive

    run(main())
    gc.collect()
    assert caplog.text == ""


def test_a_killed_parent_takes_its_worker_with_it_though_that_never_looks_at_its_channel():
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": PYTHONPATH}
    )
    with parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        assert not is_gone(worker)
        parent.kill()
        parent.wait()
        wait_until_gone(worker)


PARENT = """
import asyncio
from enginebay.backends.worker.process import WorkerProcess

async def main():
    answered = asyncio.Event()
    process = WorkerProcess(
        "stubborn_workers:ignore_everything", name="engine", on_frame=lambda _: answered.set(), on_ended=lambda: None
    )
    await process.launch()
    await answered.wait()
    print(process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("returncode", "log", "cause"),
    [
        (1, ["torch.OutOfMemoryError: CUDA out of memory."], "memory ran out"),
        (1, ["RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory"], "memory ran out"),
        (1, ["MemoryError"], "memory ran out"),
        (1, ["ModuleNotFoundError: No module named 'torch'"], "module torch is not installed for /venv/python"),
        (1, ["/usr/bin/python: No module named enginebay"], "module enginebay is not installed"),
        (1, ["FileNotFoundError: [Errno 2] No such file or directory: '/m/config.json'"], "are missing"),
        (1, ["enginebay.errors.ModelNotFound: /m: there is no config.json"], "are missing"),
        (1, ["enginebay.errors.ConfigError: policy: unknown"], "not supported"),
        (1, ["enginebay.errors.ModelError: the KV cache cannot hold one context"], "KV cache"),
        (1, ["OSError: [Errno 98] Address already in use"], "port"),
        (-9, ["loading"], "or somebody else killed it"),
        (-11, [], "SIGSEGV"),
        (-35, [], "it crashed"),
        (1, ["something new"], None),
        (None, [], None),
    ],
)
def test_the_likely_cause_of_a_failed_start_is_named(returncode: int | None, log: list[str], cause: str | None):
    found = likely_cause(returncode=returncode, log_tail=["starting", *log, "goodbye"], python="/venv/python")
    assert found is None if cause is None else found is not None and cause in found
