"""How the tests of TGI's quirks ask: the adapter's bodies, the router's rules, a simulated TGI."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from enginebay import get_backend
from enginebay.clock import MonotonicClock
from enginebay.guard import GuardedBackend
from enginebay.testing.simulators import Simulator
from enginebay.testing.simulators.wires.tgi.errors import Refusal
from enginebay.testing.simulators.wires.tgi.requests import Parameters
from enginebay.testing.simulators.wires.tgi.validation import Limits, validate
from enginebay.types import Chat, GenerationChunk, GenerationRequest, Message, SamplingParams, Text
from enginebay.wire.http_client import HttpClient
from enginebay_tgi.request_body import encode_request

T = TypeVar("T")
TEXT = Text("the quick brown fox")
CHAT = Chat((Message("user", "hi"),))
LIMITS = Limits(
    max_total_tokens=64, max_input_tokens=63, max_stop_sequences=4, max_top_n_tokens=5, max_best_of=2,
    has_grammars=True, has_prefill_logprobs=False,
)  # fmt: skip


def request(prompt: Text | Chat = TEXT, *, logprobs: int | None = None, **sampling: Any) -> GenerationRequest:
    sampling = {"max_tokens": 8, **sampling}
    return GenerationRequest(request_id="r", prompt=prompt, sampling=SamplingParams(**sampling), logprobs=logprobs)


def body_of(asked: GenerationRequest) -> dict[str, Any]:
    return json.loads(encode_request(asked, backend="tgi", adds_special_tokens=True))


def parameters_of(asked: GenerationRequest) -> dict[str, Any]:
    return body_of(asked)["parameters"]


def refused(**parameters: Any) -> bool:
    """By TGI's own rules."""
    try:
        validate("hi", Parameters(**parameters), LIMITS, is_streamed=False, adds_special_tokens=True)
    except Refusal:
        return True
    return False


def with_tgi(use: Callable[[GuardedBackend, HttpClient, Simulator], Awaitable[T]], *flags: str, **options: Any) -> T:
    async def main() -> T:
        async with Simulator("tgi", ["--model-id", "m", *flags]) as simulator:
            http = HttpClient(simulator.url, clock=MonotonicClock())
            async with get_backend("tgi", mode="external", url=simulator.url, model="m", options=options) as backend:
                try:
                    return await use(backend, http, simulator)
                finally:
                    await http.aclose()

    return asyncio.run(main())


async def collect(backend: GuardedBackend, asked: GenerationRequest) -> list[GenerationChunk]:
    return [chunk async for chunk in backend.generate(asked)]


async def last(backend: GuardedBackend, asked: GenerationRequest) -> GenerationChunk:
    return (await collect(backend, asked))[-1]


async def post(http: HttpClient, path: str, body: Mapping[str, object], **headers: str) -> tuple[int, str]:
    headers = {"content-type": "application/json", **headers}
    response = await http.request("POST", path, body=json.dumps(body).encode(), headers=headers)
    return response.status, response.body.decode()
