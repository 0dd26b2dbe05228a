"""Requests that probes send, and answers as they judge them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from enginebay.backend import Backend
from enginebay.chunks import joined
from enginebay.probes.probe import ProbeFailed
from enginebay.types import (
    Chat,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Message,
    Prompt,
    SamplingParams,
    Text,
    Usage,
)

LONG_TEXT = (
    "The quick brown fox jumps over the lazy dog, and then the dog gets up and runs after the fox through the green "
    "forest until both of them are tired and lie down by the river to sleep"
)
"""More than thirty words, so that also a backend that merely repeats them has something to say."""


@dataclass(frozen=True, slots=True)
class Answer:
    chunks: tuple[GenerationChunk, ...]
    """Up to the one with a finish_reason; what may follow is the business of one probe alone."""
    whole: GenerationChunk

    @property
    def text(self) -> str:
        return self.whole.text

    @property
    def finish_reason(self) -> FinishReason | None:
        return self.whole.finish_reason

    @property
    def usage(self) -> Usage:
        if self.whole.usage is None:
            raise ProbeFailed("the last chunk has no usage")
        return self.whole.usage

    @property
    def num_told_tokens(self) -> int | None:
        """As the chunks tell, by number or by ids; None where they don't."""
        if self.whole.num_tokens is not None:
            return self.whole.num_tokens
        return None if self.whole.token_ids is None else len(self.whole.token_ids)

    @property
    def num_tokens(self) -> int:
        """As the chunks tell, else as usage does: which of them is wrong is the business of one probe alone."""
        told = self.num_told_tokens
        return self.usage.num_output_tokens if told is None else told


async def ask(backend: Backend, request: GenerationRequest) -> Answer:
    chunks: list[GenerationChunk] = []
    stream = backend.generate(request)
    try:
        async for chunk in stream:
            chunks.append(chunk)
            if chunk.finish_reason is not None:
                break
    finally:
        await stream.aclose()
    if not chunks or chunks[-1].finish_reason is None:
        raise ProbeFailed("the stream ended without a last chunk")
    return Answer(tuple(chunks), joined(chunks))


async def ask_all(backend: Backend, requests: Sequence[GenerationRequest]) -> list[Answer]:
    """At once, in their order. The first error cancels the others."""
    tasks = [asyncio.ensure_future(ask(backend, request)) for request in requests]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def greedy(
    backend: Backend, *, prompt: Prompt | None = None, max_tokens: int = 12, **sampling: Any
) -> GenerationRequest:
    return sampled(backend, prompt=prompt, max_tokens=max_tokens, temperature=0.0, **sampling)


def sampled(
    backend: Backend, *, prompt: Prompt | None = None, max_tokens: int = 12, **sampling: Any
) -> GenerationRequest:
    return GenerationRequest(
        request_id=f"probe-{uuid4().hex}",
        prompt=plain_prompt(backend, LONG_TEXT) if prompt is None else prompt,
        sampling=SamplingParams(max_tokens=max_tokens, **sampling),
    )


def again(request: GenerationRequest, **changes: Any) -> GenerationRequest:
    """The same with other fields, under an id of its own; `sampling` may be changed field by field."""
    names = SamplingParams.__dataclass_fields__
    sampling = {key: changes.pop(key) for key in list(changes) if key in names}
    request = replace(request, request_id=f"probe-{uuid4().hex}", **changes)
    return replace(request, sampling=replace(request.sampling, **sampling))


def long(backend: Backend, *, max_tokens: int = 1024, text: str = LONG_TEXT) -> GenerationRequest:
    """A request that would run for long if nobody ended it."""
    room = backend.info.max_model_len
    limit = max_tokens if room is None else max(1, min(max_tokens, room // 2))
    return greedy(
        backend,
        prompt=plain_prompt(backend, text),
        max_tokens=limit,
        ignore_eos=Feature.IGNORE_EOS in backend.info.capabilities,
    )


def plain_prompt(backend: Backend, text: str) -> Prompt:
    """As text; as a conversation for a backend that takes nothing else."""
    if Feature.TEXT_PROMPT in backend.info.capabilities or Feature.CHAT not in backend.info.capabilities:
        return Text(text)
    return chat(text)


def chat(*texts: str) -> Chat:
    """User and assistant in turn."""
    roles = ("user", "assistant")
    return Chat(tuple(Message(roles[index % 2], text) for index, text in enumerate(texts)))
