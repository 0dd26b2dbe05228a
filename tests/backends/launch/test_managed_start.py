"""The whole start of a managed engine: launched, polled until it is ready, given up, and taken down."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterable, Mapping

import pytest
from launch_fakes import PORT, Reports, Run, context_with, script, server_of

from enginebay.backends.http_engine.api import HttpCall
from enginebay.backends.http_engine.backend import HttpEngineBackend
from enginebay.backends.launch import LaunchedServer
from enginebay.errors import BackendError, BackendUnavailable, EngineBayError, EngineDied, StartFailed, UpstreamError
from enginebay.guard import GuardedBackend
from enginebay.types import (
    BackendInfo,
    Capabilities,
    EngineStats,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    SamplingParams,
    Text,
)
from enginebay.wire.http_client import HttpClient


class SmallDecoder:
    """Each piece is a token; the last never comes."""

    is_finished = False

    def feed(self, data: bytes, received_at: float) -> Iterable[GenerationChunk]:
        yield GenerationChunk(text=data.decode(), num_tokens=1, received_at=received_at)

    def end(self, received_at: float) -> Iterable[GenerationChunk]:
        raise BackendUnavailable("the answer was cut off")

    def whole(self, body: bytes, received_at: float) -> GenerationChunk:
        raise BackendUnavailable("the answer is no JSON")


class SmallApi:
    """Health alone: 503 while it loads."""

    def call(self, request: GenerationRequest, info: BackendInfo) -> HttpCall:
        return HttpCall(path="/", body=b"{}", decoder=SmallDecoder())

    def error(self, status: int, body: bytes, headers: Mapping[str, str]) -> EngineBayError:
        return UpstreamError("no")

    async def health(self, http: HttpClient) -> Health:
        try:
            answer = await http.request("GET", "/health")
        except BackendError as error:
            return Health(HealthState.DEAD, str(error))
        return Health(HealthState.READY) if answer.status == 200 else Health(HealthState.LOADING, "loading weights")

    async def identify(self, http: HttpClient, info: BackendInfo) -> BackendInfo:
        return info

    async def stats(self, http: HttpClient) -> EngineStats:
        await http.request("GET", "/metrics")
        return EngineStats()


def backend_of(command: tuple[str, ...], **options: object) -> HttpEngineBackend:
    context = context_with(**options)  # type: ignore[arg-type]
    server = server_of(command, context=context, environment={"ENGINE_API_KEY": "sk-4711"})
    capabilities = Capabilities(features=frozenset())
    return HttpEngineBackend(context, kind="small", api=SmallApi(), capabilities=capabilities, server=server)


def test_a_managed_engine_is_ready_when_its_health_says_so_and_gone_when_closed(run: Run):
    async def main() -> None:
        async with GuardedBackend(backend_of(script("serve", PORT, 2))) as backend:
            assert (await backend.health()).state is HealthState.READY
        await backend.aclose()

    run(main())


def test_an_engine_that_dies_while_it_loads_shows_its_last_lines_and_the_cause(run: Run):
    async def main() -> None:
        backend = backend_of(script("die", "torch.OutOfMemoryError: CUDA out of memory. The key is sk-4711."))
        with pytest.raises(StartFailed) as failed:
            await backend.start()
        await backend.aclose()
        error = failed.value
        assert "mine: the engine ended with exit code 3 before it was ready" in str(error)
        assert "memory ran out on the GPU" in (error.likely_cause or "")
        assert error.log_tail == ("torch.OutOfMemoryError: CUDA out of memory. The key is ***.",)

    run(main())


def test_an_engine_that_is_not_ready_in_time_is_given_up_and_ended(run: Run):
    async def main() -> None:
        backend = backend_of(script("serve", PORT, 1_000_000), start_timeout_s=1.0)
        with pytest.raises(StartFailed, match="was not ready within 1 s") as failed:
            await backend.start()
        assert failed.value.log_tail[0] == "loading ***"
        await backend.aclose()

    run(main())


def test_a_stranger_that_took_the_port_while_the_engine_loaded_is_not_taken_for_it(run: Run):
    async def main() -> None:
        async with Reports() as reports:
            backend = backend_of(script("hang", reports.port, PORT))
            starting = asyncio.create_task(backend.start())
            engine = await reports.next()
            stranger = await asyncio.create_subprocess_exec(*script("serve", engine.text), stdout=subprocess.DEVNULL)
            with pytest.raises(StartFailed, match=rf"not the engine that answers .* process {stranger.pid} "):
                await starting
            await backend.aclose()
            stranger.kill()
            await stranger.wait()

    run(main())


def test_an_engine_whose_child_listens_is_taken_for_it(run: Run):
    async def main() -> None:
        async with GuardedBackend(backend_of(script("serve_from_child", PORT))) as backend:
            assert (await backend.health()).state is HealthState.READY

    run(main())


def test_an_engine_that_hangs_without_a_port_is_given_up_too(run: Run):
    async def main() -> None:
        async with Reports() as reports:
            backend = backend_of(script("hang", reports.port), start_timeout_s=0.5)
            with pytest.raises(StartFailed, match=r"was not ready within 0\.5 s"):
                await backend.start()
            engine = await reports.next()
            await backend.aclose()
            await engine.gone()

    run(main())


def test_a_start_that_is_cancelled_takes_the_engine_down(run: Run):
    async def main() -> None:
        async with Reports() as reports:
            backend = GuardedBackend(backend_of(script("hang", reports.port)))
            starting = asyncio.create_task(backend.start())
            engine = await reports.next()
            starting.cancel()
            await asyncio.wait({starting})
            await backend.aclose()
            await engine.gone()

    run(main())


def test_an_engine_killed_in_the_middle_of_an_answer_is_told_as_dead(run: Run):
    async def main() -> None:
        backend = backend_of(script("serve", PORT))
        await backend.start()
        request = GenerationRequest(request_id="r", prompt=Text("hello"), sampling=SamplingParams(max_tokens=9))
        stream = backend.generate(request)
        assert (await anext(stream)).text == "a token"
        server = backend._server  # pyright: ignore[reportPrivateUsage] - to end it as a crash would
        assert isinstance(server, LaunchedServer)
        server.kill()
        with pytest.raises(EngineDied, match="was killed by SIGKILL"):
            await anext(stream)
        await backend.aclose()

    run(main())


def test_an_engine_that_ends_later_is_dead_for_good(run: Run):
    async def main() -> None:
        inner = backend_of(script("serve", PORT))
        async with GuardedBackend(inner) as backend:
            server = inner._server  # pyright: ignore[reportPrivateUsage] - to end it as a crash would
            assert isinstance(server, LaunchedServer)
            server.kill()
            await server.wait_ended()
            health = await backend.health()
            assert (health.state, health.is_final) == (HealthState.DEAD, True)
            assert "was killed by SIGKILL" in (health.reason or "")
            with pytest.raises(EngineDied, match="was killed by SIGKILL"):
                await backend.stats()

    run(main())
