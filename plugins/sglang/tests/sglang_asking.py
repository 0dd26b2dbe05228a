"""Requests, and the events of answers to them, as the tests of the adapter write them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import msgspec
from sglang_contract import CONTRACTS

from enginebay import get_backend
from enginebay.guard import GuardedBackend
from enginebay.testing.simulators import Simulator
from enginebay.types import (
    BackendInfo,
    Chat,
    GenerationChunk,
    GenerationRequest,
    Message,
    ResponseFormat,
    SamplingParams,
    Text,
    TokenIds,
)
from enginebay_sglang.api import SglangApi
from enginebay_sglang.capabilities import capabilities
from enginebay_sglang.decoder import GenerateDecoder
from enginebay_sglang.options import SglangOptions

TEXT = Text("hi")
CHAT = Chat((Message("user", "hi"),))
INFO = BackendInfo(
    kind="sglang", name="sglang", model="m", capabilities=capabilities(None, SglangOptions.model_validate({}))
)


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 30))


def request(
    prompt: Text | TokenIds | Chat = TEXT,
    *,
    logprobs: int | None = None,
    format: ResponseFormat | None = None,
    **sampling: Any,
) -> GenerationRequest:
    params = SamplingParams(**{"max_tokens": 5, **sampling})
    return GenerationRequest(
        request_id="r", prompt=prompt, sampling=params, logprobs=logprobs, response_format=format
    )  # fmt: skip


def body_of(wanted: GenerationRequest) -> Mapping[str, Any]:
    return msgspec.json.decode(SglangApi(name="sglang").call(wanted, INFO).body)


def params_of(wanted: GenerationRequest) -> Mapping[str, Any]:
    return body_of(wanted)["sampling_params"]


def event(text: str, ids: list[int], finish: object = None, **meta: object) -> bytes:
    counts = {"prompt_tokens": 3, "completion_tokens": len(ids), "cached_tokens": 2}
    body = {"text": text, "output_ids": ids, "meta_info": {**counts, "finish_reason": finish, **meta}}
    return b"data: " + msgspec.json.encode(body) + b"\n\n"


def decoded(*events: bytes, is_cumulative: bool = True, stop_token_ids: tuple[int, ...] = ()) -> list[GenerationChunk]:
    decoder = GenerateDecoder(
        backend="sglang", is_cumulative=is_cumulative, stop_token_ids=stop_token_ids, num_alternatives=1
    )
    return [chunk for data in events for chunk in decoder.feed(data, 1.0)] + decoder.end(2.0)


LENGTH = {"type": "length", "length": 2}


def sample() -> str:
    return (CONTRACTS / "metrics" / "sglang.prom").read_text(encoding="utf-8")


def external(simulator: Simulator, model: str = "simulated", **options: object) -> GuardedBackend:
    return get_backend("sglang", mode="external", url=simulator.url, model=model, options=options)
