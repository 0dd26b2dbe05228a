"""A backend without an engine: it says what a script tells it to, fails when told to, and counts its live streams.

It is raw, as a plugin's `create` returns one: wrap it in `enginebay.guard.GuardedBackend` to have the stream rules.

    backend = GuardedBackend(FakeBackend(clock=clock))
    backend = GuardedBackend(FakeBackend(script=lambda request: [Pause(0.2), EngineDied("gone")], clock=clock))
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass, replace

from enginebay.clock import Clock, MonotonicClock
from enginebay.types import (
    BackendInfo,
    Capabilities,
    Chat,
    EngineStats,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    Prompt,
    Text,
    TextPart,
    TokenIds,
    Usage,
)


@dataclass(frozen=True, slots=True)
class Pause:
    duration_s: float


@dataclass(frozen=True, slots=True)
class Stall:
    """Nothing more comes, ever."""


Step = GenerationChunk | Pause | Stall | Exception
"""What a stream does next: give out a chunk (stamped when it is), wait, hang, or raise."""

ALL_FEATURES = Capabilities(features=frozenset(Feature))


def say_tokens(
    request: GenerationRequest,
    *,
    num_tokens: int | None = None,
    first_token_after_s: float = 0.0,
    token_gap_s: float = 0.0,
    tokens_per_chunk: int = 1,
) -> list[Step]:
    """A faultless answer of `num_tokens` tokens, else of max_tokens. Token i is the text ` t<i>` and the id i."""
    total = request.sampling.max_tokens if num_tokens is None else min(num_tokens, request.sampling.max_tokens)
    finish = FinishReason.LENGTH if total == request.sampling.max_tokens else FinishReason.STOP
    usage = Usage(len(fake_token_ids(request.prompt)), total)
    chunks = [_chunk(range(start, min(start + tokens_per_chunk, total))) for start in range(0, total, tokens_per_chunk)]
    last = replace(chunks.pop() if chunks else _chunk(range(0)), finish_reason=finish, usage=usage)
    steps: list[Step] = [Pause(first_token_after_s)]
    for chunk in chunks:
        steps += [chunk, Pause(token_gap_s)]
    return [*steps, last]


def fake_token_ids(prompt: Prompt) -> tuple[int, ...]:
    """One id for each word; token ids as they are."""
    if isinstance(prompt, TokenIds):
        return prompt.token_ids
    text = prompt.text if isinstance(prompt, Text) else _chat_text(prompt)
    return tuple(range(len(text.split())))


class FakeBackend:
    def __init__(
        self,
        *,
        script: Callable[[GenerationRequest], Iterable[Step]] = say_tokens,
        clock: Clock | None = None,
        name: str = "fake",
        model: str = "fake-model",
        capabilities: Capabilities = ALL_FEATURES,
        max_model_len: int | None = None,
        start_takes_s: float = 0.0,
        start_error: Exception | None = None,
        stats: EngineStats | None = None,
    ) -> None:
        self._script = script
        self._clock = clock or MonotonicClock()
        self._start_takes_s = start_takes_s
        self._start_error = start_error
        self._stats = stats
        self.info = BackendInfo(
            kind="fake",
            name=name,
            model=model,
            capabilities=capabilities,
            engine_version="fake",
            max_model_len=max_model_len,
            simulated=True,
        )
        self.health_now = Health(HealthState.LOADING, "not started")
        """What `health()` answers; may be set by a test."""
        self.requests: list[GenerationRequest] = []
        """Every request whose stream was begun, in that order."""
        self.num_live_streams = 0
        self.num_finished = 0
        self.num_cancelled = 0
        """Streams that were closed before their last chunk."""
        self.num_closes = 0

    async def start(self) -> None:
        await self._clock.sleep_until(self._clock.now() + self._start_takes_s)
        if self._start_error is not None:
            raise self._start_error
        self.health_now = Health(HealthState.READY)

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        return self._play(request)

    async def _play(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        self.requests.append(request)
        self.num_live_streams += 1
        try:
            for step in self._script(request):
                if isinstance(step, GenerationChunk):
                    yield replace(step, received_at=self._clock.now())
                else:
                    await self._do(step)
            self.num_finished += 1
        except (asyncio.CancelledError, GeneratorExit):
            self.num_cancelled += 1
            raise
        finally:
            self.num_live_streams -= 1

    async def _do(self, step: Pause | Stall | Exception) -> None:
        if isinstance(step, Pause):
            await self._clock.sleep_until(self._clock.now() + step.duration_s)
        elif isinstance(step, Stall):
            await asyncio.get_running_loop().create_future()
        else:
            raise step

    async def health(self) -> Health:
        return self.health_now

    async def stats(self) -> EngineStats:
        return self._stats or EngineStats(requests_running=float(self.num_live_streams))

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return fake_token_ids(prompt)

    async def reset_prefix_cache(self) -> None:
        pass

    async def aclose(self) -> None:
        self.num_closes += 1
        self.health_now = Health(HealthState.DEAD, "closed")


def _chunk(token_ids: range) -> GenerationChunk:
    text = "".join(f" t{token_id}" for token_id in token_ids)
    return GenerationChunk(text=text, token_ids=tuple(token_ids), num_tokens=len(token_ids), received_at=0.0)


def _chat_text(chat: Chat) -> str:
    texts: list[str] = []
    for message in chat.messages:
        if isinstance(message.content, str):
            texts.append(message.content)
        elif message.content is not None:
            texts += [part.text for part in message.content if isinstance(part, TextPart)]
    return " ".join(texts)
