"""llama-server itself, built from its sources, with the demo model's GGUF file."""

import asyncio
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from enginebay import get_backend
from enginebay.backend import Backend
from enginebay.backends.http_engine.backend import HttpEngineBackend
from enginebay.backends.launch import LaunchedServer
from enginebay.guard import GuardedBackend
from enginebay.testing import BackendConformance
from enginebay.types import (
    GenerationChunk,
    GenerationRequest,
)

SERVER = Path(os.environ.get("ENGINEBAY_LLAMA_SERVER", ".venvs/llama.cpp/bin/llama-server"))
NUM_SLOTS, CONTEXT_LENGTH = 8, 1024

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not SERVER.exists(), reason="no llama-server here: plugins/llama_cpp/build_llama_server.py"),
]


def real_backend() -> GuardedBackend:
    return get_backend(
        "llama_cpp",
        model="smollm2-135m",
        engine={"max_num_seqs": NUM_SLOTS, "max_model_len": CONTEXT_LENGTH},
        options={"executable": [str(SERVER)]},
    )


class TestLlamaServer(BackendConformance):
    time_limit_factor = 4.0

    def make_backend(self) -> Backend:
        return real_backend()

    async def kill_engine(self, backend: Backend) -> None:
        assert isinstance(backend, GuardedBackend)
        assert isinstance(backend.inner, HttpEngineBackend)
        server = backend.inner._server
        assert isinstance(server, LaunchedServer)
        server.kill()


def running(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def answer(backend: Backend, request: GenerationRequest) -> list[GenerationChunk]:
    return [chunk async for chunk in backend.generate(request)]


def test_it_says_what_it_runs_with():
    async def main() -> None:
        async with real_backend() as backend:
            settings = backend.info.effective_settings
            assert settings["max_num_seqs"] == NUM_SLOTS
            assert settings["max_model_len"] == backend.info.max_model_len == CONTEXT_LENGTH
            assert settings["model_ftype"] == "Q4_1"
            assert backend.info.engine_version
            assert not backend.info.simulated

    running(main())
