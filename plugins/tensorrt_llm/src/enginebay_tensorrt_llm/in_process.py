"""TensorRT-LLM's `LLM` object in a worker process of ours. Imports nothing that its own environment may lack."""

from __future__ import annotations

import asyncio
import random
import sys
import traceback
from collections.abc import AsyncGenerator, Mapping
from importlib import import_module
from typing import Any, Protocol

import msgspec

from enginebay.backends.in_process.foreign_engine import EngineFacts
from enginebay.backends.in_process.serve import serve_engine
from enginebay.backends.worker.channel import ChildChannel
from enginebay.errors import InvalidRequest, NotStarted, UnsupportedFeature, UpstreamError
from enginebay.types import (
    EngineStats,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Prompt,
    SamplingParams,
    Text,
    TokenIds,
    Usage,
)
from enginebay_tensorrt_llm.in_process_facts import effective_settings
from enginebay_tensorrt_llm.iterations import IterationCounts

_NAME = "tensorrt_llm"
_READ_INTERVAL_S = 0.5
_MAX_SEED = 2**64
_FINISH_REASONS = {
    "stop": FinishReason.STOP,
    "length": FinishReason.LENGTH,
    "timeout": FinishReason.ABORT,
    "cancelled": FinishReason.ABORT,
}
_SPECULATION_CLASSES = {
    "NGram": "NGramDecodingConfig",
    "Draft_Target": "DraftTargetDecodingConfig",
    "Eagle": "EagleDecodingConfig",
}


def main(channel: ChildChannel) -> None:
    serve_engine(channel, TrtllmEngine)


class Completion(Protocol):
    """One of `RequestOutput.outputs`. Texts and ids are cumulative, those with `_diff` are of this step."""

    text_diff: str
    token_ids: list[int]
    token_ids_diff: list[int]
    finish_reason: str | None
    stop_reason: str | int | None


class TrtllmEngine:
    def __init__(self) -> None:
        self._llm: Any = None
        self._seeds = random.Random(0)
        self._iterations = IterationCounts(backend=_NAME)
        self._reading: asyncio.Task[None] | None = None
        self._unread: UpstreamError | None = None
        """Why the last reading of the statistics failed."""

    async def start(self, keywords: Mapping[str, object]) -> EngineFacts:
        """Blocks while the weights are loaded: the object belongs to the thread that makes it."""
        tensorrt_llm: Any = import_module("tensorrt_llm")
        given = dict(keywords)
        self._seeds = random.Random(str(given.pop("enginebay_seed", 0)))
        self._llm = tensorrt_llm.LLM(**_constructor(given))
        if given.get("enable_iter_perf_stats"):
            self._reading = asyncio.create_task(self._read_iterations(), name="read the iteration statistics")
        told = effective_settings(self._llm)
        limit = told.get("max_model_len")
        return EngineFacts(
            engine_version=getattr(tensorrt_llm, "__version__", None),
            max_model_len=limit if isinstance(limit, int) else None,
            effective_settings=told,
        )

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        if self._llm is None:
            raise NotStarted("the engine is not loaded", backend=_NAME)
        output = self._submit(request)
        is_finished = False
        try:
            async for step in output:
                completion: Completion = step.outputs[0]
                chunk = _chunk(completion, num_prompt_tokens=len(step.prompt_token_ids))
                is_finished = chunk.finish_reason is not None
                yield chunk
                if is_finished:
                    return
        finally:
            if not is_finished:
                output.abort()

    def _submit(self, request: GenerationRequest) -> Any:
        tensorrt_llm: Any = import_module("tensorrt_llm")
        drawn_seed = self._seeds.getrandbits(62)
        try:
            sampling = tensorrt_llm.SamplingParams(**sampling_keywords(request, drawn_seed=drawn_seed))
            return self._llm.generate_async(
                _inputs(request.prompt),
                sampling_params=sampling,
                streaming=True,
                **({} if request.cache_salt is None else {"cache_salt": request.cache_salt}),
            )
        except ValueError as error:
            raise InvalidRequest(str(error)) from error

    def stats(self) -> EngineStats:
        """Raises UpstreamError while they cannot be read: the last ones would pass for those of now."""
        if self._unread is not None:
            raise self._unread
        return self._iterations.stats()

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        raise UnsupportedFeature(field=Feature.COUNT_TOKENS.value, backend=_NAME)

    async def close(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        llm, self._llm = self._llm, None
        if llm is not None:
            llm.shutdown()

    async def _read_iterations(self) -> None:
        """The one reader: entries are given out once."""
        while True:
            try:
                await self._read_once()
            except Exception as error:  # noqa: BLE001 - an engine whose statistics fail goes on to generate
                self._note_unread(error)
            else:
                self._unread = None
            await asyncio.sleep(_READ_INTERVAL_S)

    async def _read_once(self) -> None:
        entries = [entry async for entry in self._llm.get_stats_async(_READ_INTERVAL_S)]
        self._iterations.add(b"[" + b",".join(map(_json, entries)) + b"]")

    def _note_unread(self, error: Exception) -> None:
        """Told by `stats` as long as it lasts, and once in the engine's log."""
        if self._unread is None:
            print("the iteration statistics cannot be read", file=sys.stderr)
            traceback.print_exception(error)
        self._unread = UpstreamError(
            f"the iteration statistics cannot be read: {type(error).__name__}: {error}", backend=_NAME
        )


def sampling_keywords(request: GenerationRequest, *, drawn_seed: int) -> dict[str, object]:
    """All of them are said: unset, the class generates 32 tokens greedily, and always with one seed."""
    sampling: SamplingParams = request.sampling
    seed = drawn_seed if sampling.seed is None else sampling.seed
    prompt = request.prompt
    return {
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "seed": seed % _MAX_SEED,
        "stop": list(sampling.stop) or None,
        "stop_token_ids": list(sampling.stop_token_ids) or None,
        "include_stop_str_in_output": sampling.include_stop_str_in_output,
        "ignore_eos": sampling.ignore_eos,
        "min_tokens": sampling.min_tokens or None,
        "repetition_penalty": sampling.repetition_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "skip_special_tokens": sampling.skip_special_tokens,
        "add_special_tokens": prompt.add_special_tokens if isinstance(prompt, Text) else False,
    }


def _inputs(prompt: Prompt) -> str | list[int]:
    if isinstance(prompt, Text):
        return prompt.text
    assert isinstance(prompt, TokenIds)  # the capabilities refuse chats
    return list(prompt.token_ids)


def _chunk(completion: Completion, *, num_prompt_tokens: int) -> GenerationChunk:
    reason = completion.finish_reason
    return GenerationChunk(
        text=completion.text_diff,
        token_ids=tuple(completion.token_ids_diff),
        num_tokens=len(completion.token_ids_diff),
        received_at=0.0,  # the parent stamps it
        usage=Usage(num_prompt_tokens, len(completion.token_ids)),
        finish_reason=None if reason is None else _FINISH_REASONS[reason],
        stop_reason=completion.stop_reason,
    )


def _constructor(keywords: Mapping[str, object]) -> dict[str, object]:
    """Nested settings as the configuration objects that the constructor takes."""
    llmapi: Any = import_module("tensorrt_llm.llmapi")
    given = dict(keywords)
    cache = given.get("kv_cache_config")
    if isinstance(cache, Mapping):
        given["kv_cache_config"] = llmapi.KvCacheConfig(**cache)
    speculation = given.get("speculative_config")
    if isinstance(speculation, Mapping):
        fields = {key: value for key, value in speculation.items() if key != "decoding_type"}
        kind = _SPECULATION_CLASSES[str(speculation["decoding_type"])]
        given["speculative_config"] = getattr(llmapi, kind)(**fields)
    return given


def _json(entry: object) -> bytes:
    """An entry is an object, or the JSON text of one."""
    return entry.encode() if isinstance(entry, str) else msgspec.json.encode(entry)
