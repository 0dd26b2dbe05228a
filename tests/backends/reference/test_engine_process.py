"""The engine in its own process: streams, cancels, deaths, and what is left afterwards (nothing)."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
from random_llama import MAX_MODEL_LEN, VOCAB_SIZE, write_random_llama

from enginebay.backends.reference.engine_process import EngineProcess
from enginebay.backends.reference.engine_stream import EngineStream
from enginebay.clock import MonotonicClock
from enginebay.engine.request import EngineRequest
from enginebay.engine.settings import EngineConfig
from enginebay.errors import ContextTooLong, DeadlineExceeded, EngineDied, InvalidRequest, NotStarted, StartFailed
from enginebay.types import HealthState


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_llama(tmp_path_factory.mktemp("models") / "random-llama")


def make_process(model_dir: Path, *, options: dict[str, object] | None = None, **settings: object) -> EngineProcess:
    config = EngineConfig(model_dir=str(model_dir), **{"dtype": "float32", "num_threads": 1, **settings})  # type: ignore[arg-type]
    return EngineProcess(config, name="reference", clock=MonotonicClock(), **(options or {}))  # type: ignore[arg-type]


class Shared:
    """One engine for the tests that leave it as they found it, on one event loop: starting it costs a second."""

    def __init__(self, runner: asyncio.Runner, process: EngineProcess) -> None:
        self._runner, self.process = runner, process
        self._tasks = runner.run(self._all_tasks())

    def run(self, main: Callable[[EngineProcess], Coroutine[object, object, None]]) -> None:
        self._runner.run(main(self.process))
        assert self._runner.run(self._all_tasks()) == self._tasks
        assert self._runner.run(self._num_owned_blocks()) == 0

    async def _all_tasks(self) -> set[str]:
        return {task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()}

    async def _num_owned_blocks(self) -> int:
        await settle(self.process)
        return self.process.counters.num_blocks - self.process.counters.num_free_blocks


@pytest.fixture(scope="module")
def shared(model_dir: Path) -> Iterator[Shared]:
    with asyncio.Runner() as runner:
        options = {"stalled_after_s": 0.0}
        process = make_process(model_dir, max_num_seqs=16, num_blocks=40, options=options)
        runner.run(process.start())
        yield Shared(runner, process)
        runner.run(process.aclose())


@asynccontextmanager
async def started(model_dir: Path, **settings: object) -> AsyncIterator[EngineProcess]:
    process = make_process(model_dir, **settings)
    await process.start()
    try:
        yield process
    finally:
        await process.aclose()


def run(main: Callable[[], Coroutine[object, object, None]]) -> None:
    """To the end, and see that no task and no process is left."""

    async def whole() -> None:
        await main()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    before = psutil.Process().children()
    asyncio.run(whole())
    assert psutil.Process().children() == before


def make_request(request_id: str, max_tokens: int = 8, **fields: object) -> EngineRequest:
    prompt = [1 + (len(request_id) + 5 * index) % (VOCAB_SIZE - 1) for index in range(6)]
    base = {"prompt_token_ids": prompt, "max_tokens": max_tokens, "seed": 1, "ignore_eos": True, "temperature": 0.0}
    return EngineRequest(request_id=request_id, **{**base, **fields})  # type: ignore[arg-type]


async def tokens_of(stream: EngineStream) -> list[int]:
    return [token for [output, _] in [item async for item in stream] for token in output.token_ids]


async def settle(process: EngineProcess) -> None:
    """Messages keep their order: when this request has ended, all that was sent before it has been heard."""
    await tokens_of(process.submit(make_request(f"settle-{time.monotonic_ns()}", 1)))


def wait_until_gone(pid: int) -> None:
    """Nobody may be there to wait for an orphan: a zombie is gone too."""
    deadline = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.01)


# ---------------------------------------------------------------- ordinary life


def test_requests_stream_side_by_side_and_each_gives_what_it_gives_alone(shared: Shared):
    async def main(process: EngineProcess) -> None:
        requests = [make_request("r" * length, 4 + length) for length in range(1, 7)]
        alone = [await tokens_of(process.submit(request)) for request in requests]
        together = await asyncio.gather(*[tokens_of(process.submit(request)) for request in requests])
        assert together == alone
        assert [len(tokens) for tokens in alone] == [5, 6, 7, 8, 9, 10]
        counters = process.counters
        assert counters.num_finished_by_reason["length"] >= 12
        assert counters.num_free_blocks == counters.num_blocks == process.ready.num_blocks

    shared.run(main)


def test_outputs_carry_the_instant_at_which_they_arrived(shared: Shared):
    async def main(process: EngineProcess) -> None:
        before = time.monotonic()
        instants = [received_at async for _, received_at in process.submit(make_request("a"))]
        assert before < instants[0]
        assert instants == sorted(instants)
        assert instants[-1] <= time.monotonic()

    shared.run(main)


def test_a_process_tells_what_is_ready_and_closing_it_ends_the_streams_in_flight(model_dir: Path):
    async def main() -> None:
        process = make_process(model_dir, max_model_len=64, num_blocks=20, policy="naive")
        assert process.health().state is HealthState.LOADING
        with pytest.raises(NotStarted):
            process.submit(make_request("early"))
        await process.start()
        assert process.health().state is HealthState.READY
        ready = process.ready
        assert (ready.max_model_len, ready.num_blocks, ready.vocab_size) == (64, 20, VOCAB_SIZE)
        assert (ready.eos_token_ids, ready.max_num_seqs, ready.num_threads) == ((0,), 1, 1)
        stream = process.submit(make_request("cut off", 50))
        await process.aclose()
        with pytest.raises(NotStarted):
            await tokens_of(stream)
        await process.aclose()
        assert process.health().state is HealthState.DEAD
        with pytest.raises(NotStarted):
            process.submit(make_request("late"))

    run(main)


def test_what_does_not_fit_is_refused_at_the_call(shared: Shared):
    async def main(process: EngineProcess) -> None:
        with pytest.raises(ContextTooLong):
            process.submit(make_request("long", prompt_token_ids=[1] * MAX_MODEL_LEN))
        with pytest.raises(InvalidRequest, match="token id 96"):
            process.submit(make_request("foreign", prompt_token_ids=[VOCAB_SIZE]))
        first = process.submit(make_request("same"))
        with pytest.raises(InvalidRequest, match="in use"):
            process.submit(make_request("same"))
        assert len(await tokens_of(first)) == 8

    shared.run(main)


@pytest.mark.parametrize(
    "fields",
    [
        {"ignore_eos": 1},
        {"seed": 1.5},
        {"top_k": 2.5},
        {"max_tokens": "8"},
        {"num_logprobs": True},
        {"top_k": 2**64},
        {"stop_token_ids": ["a"]},
        {"logit_bias": {5: object()}},
        {"request_id": "a\ud800"},
    ],
)
def test_a_value_that_the_engine_cannot_read_is_refused_and_costs_no_other_request(
    shared: Shared, fields: dict[str, object]
):
    async def main(process: EngineProcess) -> None:
        neighbour = process.submit(make_request("neighbour", 20))
        num_streams = len(process._streams)  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(InvalidRequest):
            process.submit(make_request(**{"request_id": "wrong", **fields}))  # type: ignore[arg-type]
        assert len(process._streams) == num_streams  # pyright: ignore[reportPrivateUsage]
        assert len(await tokens_of(neighbour)) == 20

    shared.run(main)


@pytest.mark.parametrize("field", ["request_id", "cache_salt"])
def test_a_text_that_is_no_unicode_is_named(shared: Shared, field: str):
    async def main(process: EngineProcess) -> None:
        with pytest.raises(InvalidRequest, match=f"{field} is no valid Unicode") as caught:
            process.submit(make_request(**{"request_id": "wrong", field: "a\ud800"}))  # type: ignore[arg-type]
        assert caught.value.field == field

    shared.run(main)


def test_a_static_batch_starts_by_its_timeout_without_another_message(model_dir: Path):
    async def main() -> None:
        async with started(model_dir, policy="static", max_num_seqs=4, static_batch_timeout_s=0.1) as process:
            assert len(await tokens_of(process.submit(make_request("alone", arrived_at=time.monotonic())))) == 8
            assert process.counters.batch_wait_s >= 0.1

    run(main)


# ---------------------------------------------------------------- deadlines


def test_a_deadline_is_on_the_clock_that_both_processes_share(shared: Shared):
    async def main(process: EngineProcess) -> None:
        before = process.counters.num_deadline_refused
        in_time = make_request("in time", deadline_at=time.monotonic() + 600)
        assert len(await tokens_of(process.submit(in_time))) == 8
        with pytest.raises(DeadlineExceeded, match="passed"):
            await tokens_of(process.submit(make_request("late", deadline_at=time.monotonic() - 1)))
        assert process.counters.num_deadline_refused == before + 1

    shared.run(main)


# ---------------------------------------------------------------- cancelling


def test_a_cancelled_stream_ends_and_its_blocks_are_free(shared: Shared):
    async def main(process: EngineProcess) -> None:
        stream = process.submit(make_request("a", 100))
        await anext(stream)
        stream.cancel()
        stream.cancel()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
        num_aborted = process.counters.num_finished_by_reason.get("abort", 0)
        await settle(process)
        counters = process.counters
        assert counters.num_free_blocks == counters.num_blocks
        assert counters.num_finished_by_reason["abort"] == num_aborted + 1

    shared.run(main)


def test_tokens_that_nobody_read_count_as_discarded(shared: Shared):
    async def main(process: EngineProcess) -> None:
        before = process.counters
        stream = process.submit(make_request("a", 5))
        while stream.num_unread_tokens < 5:
            await settle(process)
        stream.cancel()
        assert process.counters.num_discarded_tokens == before.num_discarded_tokens + 5

    shared.run(main)


def test_a_thousand_random_cancels_leave_nothing_behind(shared: Shared):
    async def main(process: EngineProcess) -> None:
        rng = random.Random(3)
        limit = asyncio.Semaphore(48)

        async def one(number: int) -> None:
            async with limit:
                stream = process.submit(make_request(f"r{number}", rng.randint(1, 40)))
                num_wanted = rng.choice([0, 0, 1, 2, 5, 20])
                try:
                    for _ in range(num_wanted):
                        if await anext(stream, None) is None:
                            break
                    await asyncio.sleep(0)
                finally:
                    stream.cancel()

        async def victim(number: int) -> None:
            task = asyncio.create_task(one(number))
            for _ in range(rng.choice([1, 3, 30])):
                await asyncio.sleep(0)
            if rng.random() < 0.5:
                task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        await asyncio.gather(*[victim(number) for number in range(1000)])
        await settle(process)
        counters = process.counters
        assert counters.num_free_blocks == counters.num_blocks
        assert (counters.num_running, counters.num_waiting) == (0, 0)
        assert counters.num_finished_by_reason["abort"] > 100
        assert process.health().state is HealthState.READY

    shared.run(main)


# ---------------------------------------------------------------- idleness and death


def test_an_idle_engine_uses_no_cpu(shared: Shared):
    async def main(process: EngineProcess) -> None:
        await settle(process)
        child = psutil.Process(process.pid)
        before = child.cpu_times()
        await asyncio.sleep(1.0)  # what is measured is a second of doing nothing
        after = child.cpu_times()
        assert (after.user + after.system) - (before.user + before.system) <= 0.02

    shared.run(main)


def test_when_the_process_is_killed_every_stream_says_so_and_health_is_dead(model_dir: Path):
    async def main() -> None:
        async with started(model_dir, max_num_seqs=2) as process:
            streams = [process.submit(make_request(f"r{number}", 120)) for number in range(3)]
            await anext(streams[0])
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            for stream in streams:
                with pytest.raises(EngineDied, match="SIGKILL"):
                    await tokens_of(stream)
            health = process.health()
            assert health.state is HealthState.DEAD
            assert "SIGKILL" in health.reason
            assert health.is_final
            with pytest.raises(EngineDied):
                process.submit(make_request("late"))

    run(main)


def test_no_step_for_long_with_requests_in_flight_is_degraded(shared: Shared):
    async def main(process: EngineProcess) -> None:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGSTOP)
        stream = process.submit(make_request("a"))
        await asyncio.sleep(0)
        assert process.health().state is HealthState.DEGRADED
        os.kill(process.pid, signal.SIGCONT)
        await tokens_of(stream)
        assert process.health().state is HealthState.READY

    shared.run(main)


def test_a_killed_parent_takes_the_engine_with_it(model_dir: Path):
    command = [sys.executable, "-c", PARENT, str(model_dir)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        engine = int(parent.stdout.readline())
        assert psutil.pid_exists(engine)
        parent.kill()
        parent.wait()
        wait_until_gone(engine)


PARENT = """
import asyncio, sys
from enginebay.backends.reference.engine_process import EngineProcess
from enginebay.clock import MonotonicClock
from enginebay.engine.request import EngineRequest
from enginebay.engine.settings import EngineConfig

async def main():
    config = EngineConfig(model_dir=sys.argv[1], dtype="float32", num_threads=1)
    process = EngineProcess(config, name="reference", clock=MonotonicClock())
    await process.start()
    stream = process.submit(EngineRequest(request_id="a", prompt_token_ids=[1], max_tokens=100, seed=1))
    await anext(stream)
    print(process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


# ---------------------------------------------------------------- failed starts


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"model_dir": "/nowhere/model"}, "missing"),
        ({"policy": "fastest"}, "setting"),
        ({"num_blocks": 2}, "KV cache"),
    ],
)
def test_a_failed_start_names_its_likely_cause_and_leaves_no_process(
    model_dir: Path, settings: dict[str, object], cause: str
):
    async def main() -> None:
        process = make_process(Path(str(settings.pop("model_dir", model_dir))), **settings)
        with pytest.raises(StartFailed) as failed:
            await process.start()
        assert failed.value.likely_cause is not None
        assert cause in failed.value.likely_cause
        assert failed.value.log_tail
        assert process.health().state is HealthState.DEAD

    run(main)


def test_a_start_that_takes_too_long_is_ended(model_dir: Path):
    async def main() -> None:
        process = make_process(model_dir, options={"start_timeout_s": 0.01})
        with pytest.raises(StartFailed, match="not ready within"):
            await process.start()

    run(main)


def test_an_interpreter_without_enginebay_is_named(model_dir: Path, tmp_path: Path):
    async def main() -> None:
        python = tmp_path / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S "$@"\n')
        python.chmod(0o755)
        process = make_process(model_dir, options={"python": str(python)})
        with pytest.raises(StartFailed, match="enginebay is not installed for"):
            await process.start()

    run(main)


def test_a_cancelled_start_leaves_no_process(model_dir: Path):
    async def main() -> None:
        process = make_process(model_dir)
        starting = asyncio.create_task(process.start())
        while process.pid is None:  # noqa: ASYNC110 - launching is all it does
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await process.aclose()

    run(main)


@pytest.mark.parametrize("num_steps", [0, 1, 2, 4, 8, 16])
def test_closing_at_any_moment_of_a_start_leaves_no_process(model_dir: Path, num_steps: int):
    async def main() -> None:
        process = make_process(model_dir, options={"stop_grace_s": 0.0})
        starting = asyncio.create_task(process.start())
        for _ in range(num_steps):
            await asyncio.sleep(0)
        await process.aclose()
        assert process.health().state is HealthState.DEAD
        with pytest.raises(NotStarted, match="closed"):
            await starting

    run(main)


def test_the_environment_of_the_entry_reaches_the_process_and_goes_before_ours(model_dir: Path):
    async def main() -> None:
        environment = {"GREETING": "hello", "OMP_WAIT_POLICY": "passive"}
        process = make_process(model_dir, options={"environment": environment})
        await process.start()
        found = psutil.Process(process.pid).environ()
        assert (found["GREETING"], found["OMP_WAIT_POLICY"]) == ("hello", "passive")
        assert "GOMP_SPINCOUNT" not in found
        await process.aclose()

    run(main)
