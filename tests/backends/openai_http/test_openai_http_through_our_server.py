"""Our client against our server, with a fake backend behind it: two directions of one wire form."""

from __future__ import annotations

import asyncio
import socket
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import PurePosixPath

import pytest
import uvicorn

from enginebay import get_backend
from enginebay.errors import ContextTooLong, EngineDied, StartFailed, UnsupportedFeature
from enginebay.gateway.app import build_app
from enginebay.guard import GuardedBackend
from enginebay.testing import FakeBackend, Stall, say_tokens
from enginebay.types import (
    Capabilities,
    Chat,
    Feature,
    FinishReason,
    GenerationRequest,
    HealthState,
    Message,
    SamplingParams,
    Text,
    TokenIds,
    Usage,
)


def run(main):
    asyncio.run(asyncio.wait_for(main(), 30))


def request(prompt=None, max_tokens=4, **fields) -> GenerationRequest:
    sampling = SamplingParams(max_tokens=max_tokens, top_k=5, seed=3, ignore_eos=True)
    return GenerationRequest(request_id="r1", prompt=prompt or Text("hello there"), sampling=sampling, **fields)


class InLoopServer(uvicorn.Server):
    """Leaves signals alone and says when it serves."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.serves = asyncio.Event()

    async def startup(self, sockets=None) -> None:
        await super().startup(sockets)
        self.serves.set()


@asynccontextmanager
async def served(fake: FakeBackend):
    config = uvicorn.Config(build_app(GuardedBackend(fake)), log_config=None, timeout_graceful_shutdown=1)
    server = InLoopServer(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        serving = asyncio.create_task(server._serve([listener]))
        await server.serves.wait()
        try:
            yield url
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def through(fake: FakeBackend, **settings):
    async with served(fake) as url, get_backend("openai_http", url=url, model="fake-model", **settings) as backend:
        yield backend


@pytest.mark.parametrize(
    "prompt",
    [Text("hello there"), TokenIds((5, 6)), Chat((Message("user", "hello there"),))],
    ids=["text", "ids", "chat"],
)
@pytest.mark.parametrize("delivery", ["stream", "final"])
def test_a_request_arrives_as_it_was_sent_and_its_answer_as_it_was_given(prompt, delivery):
    fake = FakeBackend(script=lambda wanted: say_tokens(wanted, tokens_per_chunk=2))

    async def main():
        async with through(fake) as backend:
            sent = request(prompt, delivery=delivery)
            chunks = [chunk async for chunk in backend.generate(sent)]
            [arrived] = fake.requests
            assert arrived.prompt == sent.prompt
            assert arrived.sampling == sent.sampling
            assert "".join(chunk.text for chunk in chunks) == " t0 t1 t2 t3"
            assert [token for chunk in chunks for token in chunk.token_ids] == [0, 1, 2, 3]
            assert sum(chunk.num_tokens for chunk in chunks) == 4
            assert (chunks[-1].finish_reason, chunks[-1].usage) == (FinishReason.LENGTH, Usage(2, 4))

    run(main)


def test_our_own_server_tells_what_the_engine_behind_it_runs_with():
    fake = FakeBackend()
    settings = {"policy": "static", "max_num_seqs": 4, "folder": PurePosixPath("weights")}
    fake.info = replace(fake.info, engine_version="1.2.3", effective_settings=settings)

    async def main():
        async with through(fake) as backend:
            info = backend.info
            assert info.engine_version == "1.2.3"
            assert info.effective_settings == {
                "policy": "static", "max_num_seqs": 4, "folder": "weights", "kind": "fake", "dialect": "enginebay",
                "owned_by": "enginebay",
            }  # fmt: skip

    run(main)


def test_our_own_server_is_known_with_what_the_backend_behind_it_can_do():
    features = frozenset(Feature) - {Feature.SEED, Feature.OUTPUT_TOKEN_IDS, Feature.COUNT_TOKENS}
    fake = FakeBackend(capabilities=Capabilities(features=features), max_model_len=321)

    async def main():
        async with through(fake) as backend:
            assert backend.info.effective_settings["dialect"] == "enginebay"
            assert (backend.info.max_model_len, backend.info.simulated) == (321, True)
            assert Feature.IGNORE_EOS in backend.info.capabilities
            assert Feature.SEED not in backend.info.capabilities
            with pytest.raises(UnsupportedFeature, match="seed"):
                backend.generate(request())
            without_seed = GenerationRequest(request_id="r", prompt=Text("a"), sampling=SamplingParams(max_tokens=1))
            [chunk] = [chunk async for chunk in backend.generate(without_seed)]
            assert chunk.token_ids is None

    run(main)


@pytest.mark.parametrize(
    ("error", "is_same"),
    [
        (EngineDied("the engine is gone", backend="fake"), lambda got: str(got) == "the engine is gone"),
        (ContextTooLong(num_tokens=900, limit=512), lambda got: (got.num_tokens, got.limit) == (900, 512)),
    ],
)
@pytest.mark.parametrize("num_tokens_before", [0, 2])
def test_an_error_behind_the_server_is_the_same_error_here(error, is_same, num_tokens_before):
    fake = FakeBackend(script=lambda wanted: [*say_tokens(wanted)[: 2 * num_tokens_before], error])

    async def main():
        async with through(fake) as backend:
            with pytest.raises(type(error)) as caught:
                [chunk async for chunk in backend.generate(request())]
            assert is_same(caught.value)

    run(main)


def test_a_cancel_here_is_a_cancel_in_the_backend_behind_the_server():
    fake = FakeBackend(script=lambda wanted: [*say_tokens(wanted)[:2], Stall()])

    async def main():
        async with through(fake) as backend:
            stream = backend.generate(request())
            await anext(stream)
            assert fake.num_live_streams == 1
            await stream.aclose()
            for _ in range(100_000):
                if not fake.num_live_streams:
                    break
                await asyncio.sleep(0)
            assert (fake.num_live_streams, fake.num_cancelled) == (0, 1)

    run(main)


def test_figures_of_the_server_are_read_back():
    async def main():
        async with through(FakeBackend()) as backend:
            [chunk async for chunk in backend.generate(request())]
            stats = await backend.stats()
            assert stats.requests_total_by_finish_reason == {"length": 1}
            assert (stats.prompt_tokens_total, stats.generation_tokens_total) == (2, 4)
            assert stats.ttft_seconds.count == 1
            assert stats.e2e_seconds.count == 1
            assert await backend.count_tokens(Text("a b c")) == (0, 1, 2)

    run(main)


def test_a_server_whose_backend_still_loads_is_waited_for_and_one_that_failed_is_told():
    async def main():
        async with through(FakeBackend(start_takes_s=0.3)) as backend:
            assert (await backend.health()).state is HealthState.READY
        failed = FakeBackend(start_error=StartFailed("no memory"))
        async with served(failed) as url:
            backend = get_backend("openai_http", url=url, model="fake-model", options={"start_timeout_s": 0.3})
            with pytest.raises(StartFailed) as caught:
                await backend.start()
            assert "no memory" in str(caught.value)

    run(main)
