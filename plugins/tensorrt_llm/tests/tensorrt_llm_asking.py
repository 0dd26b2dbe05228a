"""Asking a simulator: through the adapter, and past it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec

from enginebay import get_backend
from enginebay.clock import MonotonicClock
from enginebay.guard import GuardedBackend
from enginebay.testing.simulators import INSTANT, Simulator, SimulatorProfile
from enginebay.types import (
    Chat,
    GenerationChunk,
    GenerationRequest,
    Message,
    Prompt,
    SamplingParams,
    Text,
)
from enginebay.wire.http_client import HttpClient
from enginebay_tensorrt_llm.requests import encode

T = TypeVar("T")
CHAT = Chat((Message("user", "Hello"),))


def run(work: Coroutine[Any, Any, T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(20):
            return await work

    return asyncio.run(limited())


def ask(prompt: Prompt | None = None, **fields: Any) -> GenerationRequest:
    fields.setdefault("max_tokens", 8)
    sampling = SamplingParams(**fields)
    return GenerationRequest(request_id="r1", prompt=prompt or Text("the quick brown fox"), sampling=sampling)


def body_of(request: GenerationRequest, *, token_ids_only: bool = False) -> dict[str, Any]:
    data = encode(request, model="m", backend="trt", drawn_seed=77, token_ids_only=token_ids_only)
    return msgspec.json.decode(data)


async def answer(backend: GuardedBackend, request: GenerationRequest) -> list[GenerationChunk]:
    return [chunk async for chunk in backend.generate(request)]


def text_of(chunks: list[GenerationChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


@asynccontextmanager
async def serving(
    *arguments: str, kind: str = "tensorrt_llm", profile: SimulatorProfile = INSTANT
) -> AsyncIterator[Simulator]:
    async with Simulator(kind, arguments, profile=profile, port=0) as simulator:
        yield simulator


@asynccontextmanager
async def attached(simulator: Simulator, **options: object) -> AsyncIterator[GuardedBackend]:
    if simulator.spec.kind == "triton":
        options |= {"api": "triton", "metrics_url": simulator.url}
    made = get_backend("tensorrt_llm", mode="external", url=simulator.url, model="simulated", options=options)
    async with made as backend:
        yield backend


async def post(simulator: Simulator, path: str, body: Mapping[str, object] | None = None) -> tuple[int, bytes]:
    """Past the adapter: as any client would."""
    client = HttpClient(simulator.url, clock=MonotonicClock())
    try:
        method = "GET" if body is None else "POST"
        data = b"" if body is None else msgspec.json.encode(body)
        response = await client.request(method, path, body=data, headers={"content-type": "application/json"})
        return response.status, response.body
    finally:
        await client.aclose()
