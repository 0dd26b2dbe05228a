"""llama-server itself, built from its sources, with the demo model's GGUF file."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enginebay import get_backend
from enginebay.backend import Backend
from enginebay.clock import MonotonicClock
from enginebay.errors import StartFailed
from enginebay.guard import GuardedBackend
from enginebay.testing import BackendConformance
from enginebay.types import (
    Chat,
    Feature,
    GenerationChunk,
    GenerationRequest,
    Message,
    ResponseFormat,
    SamplingParams,
    Text,
)
from enginebay.wire.http_client import HttpClient
from enginebay.wire.prometheus_text import parse_metrics
from enginebay_llama_cpp.metrics import METRICS

SERVER = Path(os.environ.get("ENGINEBAY_LLAMA_SERVER", ".venvs/llama.cpp/bin/llama-server"))
NUM_SLOTS, CONTEXT_LENGTH = 8, 1024

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not SERVER.exists(), reason="no llama-server here: plugins/llama_cpp/build_llama_server.py"),
]


def real_backend(**options: object) -> GuardedBackend:
    return get_backend(
        "llama_cpp",
        model="smollm2-135m",
        engine={"max_num_seqs": NUM_SLOTS, "max_model_len": CONTEXT_LENGTH, "served_model_name": "small"},
        # One thread: its threads wait for each other in a loop, and crawl where another process has one of the cores.
        options={"executable": [str(SERVER)], "num_threads": 1, **options},
    )


class TestLlamaServer(BackendConformance):
    time_limit_factor = 4.0

    def make_backend(self) -> Backend:
        return real_backend()

    async def kill_engine(self, backend: Backend) -> None:
        assert isinstance(backend, GuardedBackend)
        backend.inner._server.kill()  # pyright: ignore[reportAttributeAccessIssue] - as a crash would end it


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 300))


def request(prompt: Text | Chat, *, max_tokens: int = 16, **sampling: Any) -> GenerationRequest:
    params = SamplingParams(**{"max_tokens": max_tokens, "temperature": 0.0, **sampling})
    return GenerationRequest(request_id="r", prompt=prompt, sampling=params)


async def answer(backend: Backend, wanted: GenerationRequest) -> list[GenerationChunk]:
    return [chunk async for chunk in backend.generate(wanted)]


def text_of(chunks: list[GenerationChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_it_says_what_it_runs_with() -> None:
    async def main() -> None:
        async with real_backend() as backend:
            settings = backend.info.effective_settings
            assert settings["max_num_seqs"] == NUM_SLOTS
            assert settings["max_model_len"] == backend.info.max_model_len == CONTEXT_LENGTH
            assert settings["served_model_name"] == "small"
            assert settings["model_ftype"] == "Q4_1"
            assert backend.info.engine_version
            assert not backend.info.simulated

    run(main)


def test_every_series_that_the_map_reads_is_published() -> None:
    async def main() -> None:
        async with real_backend() as backend:
            await answer(backend, request(Text("The capital of France is")))
            http = HttpClient(backend.inner._url, clock=MonotonicClock())  # pyright: ignore[reportAttributeAccessIssue]
            text = (await http.request("GET", "/metrics")).body.decode()
            await http.aclose()
            assert METRICS.missing(parse_metrics(text)) == []

    run(main)


def test_greedy_repeats_streamed_or_whole() -> None:
    async def main() -> None:
        async with real_backend() as backend:
            wanted = request(Text("The capital of France is"))
            alone = await answer(backend, wanted)
            [whole] = await answer(backend, replace(wanted, delivery="final"))
            assert text_of(alone).startswith(" Paris")
            assert whole.text == text_of(alone)
            assert whole.token_ids == sum((chunk.token_ids or () for chunk in alone), ())

    run(main)


def test_a_chat_counts_its_tokens_and_knows_its_prompt() -> None:
    async def main() -> None:
        async with real_backend() as backend:
            assert isinstance(backend, GuardedBackend)
            assert Feature.COUNT_TOKENS in backend.info.capabilities
            chat = Chat((Message("user", "What is the capital of France?"),))
            chunks = await answer(backend, request(chat))
            usage = chunks[-1].usage
            assert usage is not None
            assert sum(chunk.num_tokens or 0 for chunk in chunks) == usage.num_output_tokens
            assert len(await backend.count_tokens(chat)) == usage.num_prompt_tokens

    run(main)


def test_a_character_of_several_tokens_is_counted_though_not_all_of_its_ids_are_sent() -> None:
    async def main() -> None:
        async with real_backend() as backend:
            grammar = ResponseFormat(type="grammar", schema='root ::= "\U0001f600\U0001f680"')
            wanted = replace(request(Text("Two emoji:")), response_format=grammar)
            chunks = await answer(backend, wanted)
            usage = chunks[-1].usage
            assert usage is not None
            assert text_of(chunks) == "\U0001f600\U0001f680"
            assert sum(chunk.num_tokens or 0 for chunk in chunks) == usage.num_output_tokens > 2
            assert any(chunk.token_ids is None for chunk in chunks)

    run(main)


def test_a_flag_that_it_does_not_know_is_in_its_last_lines() -> None:
    async def main() -> None:
        backend = real_backend(extra_arguments=["--no-such-flag"])
        with pytest.raises(StartFailed, match="no-such-flag"):
            await backend.start()
        await backend.aclose()

    run(main)
