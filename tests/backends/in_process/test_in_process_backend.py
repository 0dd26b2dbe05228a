"""A scripted engine in a real worker process: what crosses the border, and what is left when it breaks."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from enginebay.errors import (
    ConfigError,
    ContextTooLong,
    DeadlineExceeded,
    EngineDied,
    EngineStepFailed,
    NotStarted,
    StartFailed,
)
from enginebay.guard import GuardedBackend
from enginebay.types import (
    Chat,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    HealthState,
    ImagePart,
    Message,
    Prompt,
    ResponseFormat,
    SamplingParams,
    Text,
    TextPart,
    TokenIds,
)

PATIENCE_S = 20.0


def request(text: str = "say", *, max_tokens: int = 4, **fields: object) -> GenerationRequest:
    fields.setdefault("prompt", Text(text))
    return GenerationRequest(
        request_id="r",
        sampling=SamplingParams(max_tokens=max_tokens),
        **fields,  # type: ignore[arg-type]
    )


async def read(backend: GuardedBackend, asked: GenerationRequest) -> list[GenerationChunk]:
    return [chunk async for chunk in backend.generate(asked)]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    gives_up_at = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < gives_up_at
        await asyncio.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def worker_folders() -> set[str]:
    return {path.name for path in Path(tempfile.gettempdir()).glob("enginebay-worker-*")}


# ---------------------------------------------------------------- what crosses


def test_chunks_arrive_in_order_stamped_by_the_parent(make_backend) -> None:
    async def main() -> None:
        async with make_backend() as backend:
            before = time.monotonic()
            chunks = await read(backend, request(max_tokens=5))
            assert "".join(chunk.text for chunk in chunks) == " t0 t1 t2 t3 t4"
            assert [chunk.finish_reason for chunk in chunks] == [None] * 4 + [FinishReason.LENGTH]
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.num_output_tokens == 5
            stamps = [chunk.received_at for chunk in chunks]
            assert stamps == sorted(stamps)
            assert before <= stamps[0] <= stamps[-1] <= time.monotonic()

    asyncio.run(main())


def test_facts_of_the_engine_are_its_information(make_backend, model_dir: Path) -> None:
    async def main() -> None:
        async with make_backend() as backend:
            assert backend.info.engine_version == "1.2.3"
            assert backend.info.max_model_len == 64
            assert backend.info.effective_settings["model"] == str(model_dir)

    asyncio.run(main())


CHAT = Chat(
    (
        Message("user", (TextPart("tell"), ImagePart("data:,x")), name="n"),
        Message("assistant", None, tool_calls=({"id": "c", "function": {"name": "f", "arguments": "{}"}},)),
        Message("tool", "42", tool_call_id="c"),
    ),
    tools=({"type": "function", "function": {"name": "f"}},),
    tool_choice={"type": "function"},
    template_kwargs={"thinking": False},
    template="{{ x }}",
)


@pytest.mark.parametrize("prompt", [Text("tell", add_special_tokens=False), CHAT])
def test_every_field_of_a_request_reaches_the_engine(make_backend, prompt: Prompt) -> None:
    asked = GenerationRequest(
        request_id="ä",
        prompt=prompt,
        sampling=SamplingParams(max_tokens=9, logit_bias={7: -1.5}, stop=("x", "y"), seed=2**40, temperature=0.25),
        response_format=ResponseFormat(type="json_schema", schema={"a": [1, None]}),
        logprobs=2,
        priority=-3,
        session_key="s",
        cache_salt="c",
        adapter="a",
        resume_token_ids=(1, 2),
    )

    async def main() -> None:
        async with make_backend() as backend:
            [chunk] = await read(backend, asked)
            assert chunk.text == repr(asked)

    asyncio.run(main())


def test_a_final_delivery_is_one_chunk(make_backend) -> None:
    async def main() -> None:
        async with make_backend() as backend:
            [chunk] = await read(backend, request(max_tokens=3, delivery="final"))
            assert (chunk.text, chunk.token_ids, chunk.num_tokens) == (" t0 t1 t2", (0, 1, 2), 3)

    asyncio.run(main())


def test_many_requests_run_at_the_same_time(make_backend) -> None:
    async def main() -> None:
        async with make_backend() as backend:
            answers = await asyncio.gather(*(read(backend, request(max_tokens=20)) for _ in range(64)))
            assert all(len(chunks) == 20 for chunks in answers)
            assert (await backend.stats()).requests_running == 0

    asyncio.run(main())


def test_questions_are_answered(make_backend) -> None:
    async def main() -> None:
        async with make_backend() as backend:
            assert await backend.count_tokens(Text("a bcd ef")) == (1, 3, 2)
            await backend.reset_prefix_cache()
            assert (await backend.stats()).extra == {"num_cache_resets": 1.0}
            with pytest.raises(ContextTooLong):
                await backend.count_tokens(TokenIds((1, 2)))

    asyncio.run(main())


# ---------------------------------------------------------------- errors


def test_a_typed_error_of_the_engine_arrives_as_it_was(make_backend) -> None:
    async def main() -> None:
        async with make_backend() as backend:
            with pytest.raises(ContextTooLong) as caught:
                await read(backend, request("refuse"))
            assert str(caught.value) == str(ContextTooLong(num_tokens=9001, limit=64, max_tokens=7))
            assert (caught.value.num_tokens, caught.value.limit, caught.value.field) == (9001, 64, "prompt")

    asyncio.run(main())


@pytest.mark.parametrize(("text", "words"), [("raise", "ValueError: a foreign error"), ("half", "without a last")])
def test_a_fault_of_one_request_leaves_the_others_alone(make_backend, text: str, words: str) -> None:
    async def main() -> None:
        async with make_backend() as backend:
            bad, good = await asyncio.gather(
                read(backend, request(text)), read(backend, request(max_tokens=30)), return_exceptions=True
            )
            assert isinstance(bad, EngineStepFailed)
            assert words in str(bad)
            assert bad.backend == "scripted"
            assert isinstance(good, list)
            assert (await backend.health()).state is HealthState.READY

    asyncio.run(main())


@pytest.mark.parametrize("text", ["die", "exit"])
def test_an_engine_that_dies_fails_all_its_streams_typed(make_backend, text: str) -> None:
    async def main() -> None:
        async with make_backend() as backend:
            stalled = asyncio.create_task(read(backend, request("stall")))
            await until(lambda: _num_running_is(backend, 1))
            with pytest.raises(EngineDied):
                await read(backend, request(text))
            with pytest.raises(EngineDied):
                await stalled
            health = await backend.health()
            assert (health.state, health.is_final) == (HealthState.DEAD, True)
            with pytest.raises(EngineDied):
                await backend.stats()

    asyncio.run(main())


def test_a_killed_worker_ends_its_streams_behind_what_arrived(make_backend) -> None:
    async def main() -> None:
        async with make_backend() as backend:
            stream = backend.generate(request("stall"))
            assert (await anext(stream)).text == " t0"
            os.kill(backend.inner.pid, signal.SIGKILL)
            with pytest.raises(EngineDied, match="SIGKILL"):
                await anext(stream)

    asyncio.run(main())


def test_a_deadline_ends_a_stream_and_frees_its_place(make_backend) -> None:
    async def main() -> None:
        async with make_backend() as backend:
            with pytest.raises(DeadlineExceeded):
                await read(backend, request("stall", deadline_at=time.monotonic() + 0.1))
            with pytest.raises(DeadlineExceeded):
                await read(backend, request("stall", deadline_at=time.monotonic() - 1))
            await until(lambda: _num_running_is(backend, 0))

    asyncio.run(main())


async def _has_process(backend: GuardedBackend) -> bool:
    return backend.inner.pid is not None


async def _num_running_is(backend: GuardedBackend, number: int) -> bool:
    return (await backend.stats()).requests_running == number


# ---------------------------------------------------------------- cancelling


def test_a_cancelled_stream_ends_in_the_engine_too(make_backend) -> None:
    async def main() -> None:
        async with make_backend() as backend:
            tasks = [asyncio.create_task(read(backend, request("stall"))) for _ in range(8)]
            await until(lambda: _num_running_is(backend, 8))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await until(lambda: _num_running_is(backend, 0))
            early = asyncio.create_task(read(backend, request("stall")))
            await asyncio.sleep(0)
            early.cancel()
            await asyncio.gather(early, return_exceptions=True)
            unread = backend.generate(request("stall"))
            del unread
            await until(lambda: _num_running_is(backend, 0))

    asyncio.run(main())


def test_health_and_figures_answer_while_the_engines_loop_is_blocked(make_backend) -> None:
    async def main() -> None:
        async with make_backend(stop_grace_s=0.1) as backend:
            await until(lambda: _num_running_is(backend, 0))
            task = asyncio.create_task(read(backend, request("block")))
            await asyncio.sleep(0.2)
            began_at = time.monotonic()
            assert (await backend.health()).state is HealthState.READY
            assert (await backend.stats()).requests_running is not None
            assert time.monotonic() - began_at < 5
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())


# ---------------------------------------------------------------- start and end


@pytest.mark.parametrize(
    ("on_start", "words"),
    [
        ("fail", "no such device\nlikely cause: there is none\nlast lines of the engine:\n  the device is missing"),
        ("crash", "RuntimeError: the weights are torn"),
        ("import", "the Python module a_module_that_nobody_has is not installed for"),
        ("exit", "the driver is gone"),
    ],
)
def test_a_start_that_fails_says_why(make_backend, on_start: str, words: str) -> None:
    folders = worker_folders()

    async def main() -> None:
        with pytest.raises(StartFailed) as caught:
            await make_backend(on_start=on_start).start()
        assert words in str(caught.value)
        assert caught.value.backend == "scripted"

    asyncio.run(main())
    assert worker_folders() == folders


def test_a_log_file_that_cannot_be_written_to_is_refused_before_anything_starts(make_backend, tmp_path: Path) -> None:
    async def main() -> None:
        backend = make_backend(log_file=tmp_path / "missing" / "engine.log")
        with pytest.raises(ConfigError, match=r"options\.log_file: .*engine\.log cannot be written to: No such file"):
            await backend.start()
        assert backend.inner.pid is None
        await backend.aclose()

    asyncio.run(main())


@pytest.mark.parametrize("on_start", ["hang", "block"])
def test_a_start_has_a_time_limit(make_backend, on_start: str) -> None:
    async def main() -> None:
        with pytest.raises(StartFailed, match="was not ready within 1 s"):
            await make_backend(on_start=on_start, start_timeout_s=1.0).start()

    asyncio.run(main())


@pytest.mark.parametrize("on_start", ["hang", "block"])
def test_a_cancelled_start_leaves_nothing(make_backend, on_start: str) -> None:
    folders = worker_folders()

    async def main() -> None:
        backend = make_backend(on_start=on_start)
        starting = asyncio.create_task(backend.start())
        await until(lambda: _has_process(backend))
        pid = backend.inner.pid
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await backend.aclose()
        assert not is_running(pid)

    asyncio.run(main())
    assert worker_folders() == folders


def test_closing_twice_ends_the_process_once_and_its_streams(make_backend) -> None:
    folders = worker_folders()

    async def main() -> None:
        backend = make_backend()
        await backend.start()
        pid = backend.inner.pid
        stalled = asyncio.create_task(read(backend, request("stall")))
        await until(lambda: _num_running_is(backend, 1))
        await asyncio.gather(backend.aclose(), backend.aclose())
        await backend.aclose()
        assert not is_running(pid)
        with pytest.raises(NotStarted):
            await stalled
        with pytest.raises(NotStarted):
            backend.generate(request())

    asyncio.run(main())
    assert worker_folders() == folders


def test_features_are_as_declared_where_the_engine_tells_none(make_backend) -> None:
    async def main() -> None:
        async with make_backend() as backend:
            assert Feature.DEADLINE in backend.info.capabilities

    asyncio.run(main())
