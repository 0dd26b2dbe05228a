"""A backend that answers by script: the prompt's text says how."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from enginebay.clock import MonotonicClock
from enginebay.errors import ContextTooLong, EngineStepFailed, InvalidRequest
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
    HistogramSnapshot,
    Prompt,
    PromptEcho,
    Text,
    TokenAlternative,
    TokenLogprob,
    Usage,
)

MAX_MODEL_LEN = 64
ALL_BUT_STRUCTURE = frozenset(Feature) - {Feature.RESPONSE_FORMAT, Feature.TOOLS, Feature.IMAGES}


class ScriptedBackend:
    """Tokens are the words of "w0 w1 w2 ..."; the prompt is one token a word.

    Scripts, as the first word of the prompt: `hang` waits before the first token; `stall` waits after the first;
    `break` fails after the second; `break-first` fails before any; `crash` raises what is no error of ours;
    `flood` writes 64 KiB a token; anything else answers at once.
    """

    def __init__(self, *, features: frozenset[Feature] = ALL_BUT_STRUCTURE, holds_start: bool = False) -> None:
        self.info = BackendInfo(
            kind="scripted",
            name="scripted",
            model="tiny",
            capabilities=Capabilities(features=features, max_logprobs=5),
            max_model_len=MAX_MODEL_LEN,
        )
        self.requests: list[GenerationRequest] = []
        self.num_running = 0
        self.num_cancelled = 0
        self.num_dropped = 0
        self.changed = asyncio.Condition()
        self.may_start = asyncio.Event()
        self.start_failure: Exception | None = None
        self.health_now = Health(HealthState.READY)
        if not holds_start:
            self.may_start.set()
        self.num_closed = 0
        self._clock = MonotonicClock()

    async def start(self) -> None:
        await self.may_start.wait()
        if self.start_failure is not None:
            raise self.start_failure

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        num_prompt_tokens = len(prompt_words(request.prompt))
        if num_prompt_tokens + request.sampling.max_tokens > MAX_MODEL_LEN:
            raise ContextTooLong(
                num_tokens=num_prompt_tokens,
                limit=MAX_MODEL_LEN,
                max_tokens=request.sampling.max_tokens,
                field="prompt" if num_prompt_tokens >= MAX_MODEL_LEN else "max_tokens",
            )
        if request.sampling.stop_token_ids == (666,):
            raise InvalidRequest("no such token", field="stop_token_ids")
        self.requests.append(request)
        return self._generate(request)

    async def _generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        self.num_running += 1
        self._tell()
        try:
            script = prompt_words(request.prompt)[0]
            for chunk in self._chunks(request, script):
                await self._play(script, (len(chunk.token_ids or ()) and chunk.token_ids[-1]) or 0)
                yield chunk
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        except GeneratorExit:
            self.num_dropped += 1
            raise
        finally:
            self.num_running -= 1
            self._tell()

    async def _play(self, script: str, token_id: int) -> None:
        if script == "hang" or (script == "stall" and token_id == 1):
            await asyncio.Event().wait()
        if script == "break-first" or (script == "break" and token_id == 2):
            raise EngineStepFailed("step 2 failed", backend="scripted")
        if script == "crash":
            raise ZeroDivisionError("a bug with a secret")
        await asyncio.sleep(0)

    def _chunks(self, request: GenerationRequest, script: str) -> Iterator[GenerationChunk]:
        words = prompt_words(request.prompt)
        num_tokens = min(request.sampling.max_tokens, 100)
        echo = PromptEcho(
            token_ids=tuple(range(100, 100 + len(words))),
            tokens=tuple(words),
            logprobs=_prompt_logprobs(words) if request.prompt_logprobs is not None else None,
        )
        if num_tokens == 0:
            yield self._last(0, len(words), FinishReason.LENGTH, prompt=echo)
        for index in range(num_tokens):
            text = "x" * 65536 if script == "flood" else f"w{index} "
            is_stop = text.strip() in request.sampling.stop
            common: dict[str, Any] = {
                "text": "" if is_stop else text,
                "token_ids": (index,),
                "num_tokens": 1,
                "logprobs": (_logprob(text, index, request.logprobs),) if request.logprobs is not None else None,
                "prompt": echo if index == 0 else None,
            }
            if is_stop:
                yield self._last(index + 1, len(words), FinishReason.STOP, stop_reason=text.strip(), **common)
                return
            if index == num_tokens - 1:
                yield self._last(index + 1, len(words), FinishReason.LENGTH, **common)
            else:
                yield GenerationChunk(received_at=self._clock.now(), **common)

    def _last(
        self, num_output_tokens: int, num_prompt_tokens: int, reason: FinishReason, **others: Any
    ) -> GenerationChunk:
        usage = Usage(num_prompt_tokens, num_output_tokens, num_cached_tokens=1)
        return GenerationChunk(received_at=self._clock.now(), usage=usage, finish_reason=reason, **others)

    def _tell(self) -> None:
        async def notify() -> None:
            async with self.changed:
                self.changed.notify_all()

        self._telling = asyncio.ensure_future(notify())

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return tuple(range(len(prompt_words(prompt))))

    async def health(self) -> Health:
        return self.health_now

    async def stats(self) -> EngineStats:
        return EngineStats(
            batch_size=float(self.num_running),
            requests_waiting=0.0,
            kv_cache_usage_ratio=0.25,
            preemptions_total=3.0,
            queue_seconds=HistogramSnapshot((0.1, float("inf")), (1.0, 2.0), 0.7),
            extra={"enginebay_engine_steps_total": 7.0, "scripted_oddity": 1.5},
        )

    async def aclose(self) -> None:
        self.num_closed += 1


def prompt_words(prompt: Prompt) -> list[str]:
    if isinstance(prompt, Text):
        return prompt.text.split() or [""]
    if isinstance(prompt, Chat):
        return " ".join(str(message.content) for message in prompt.messages).split() or [""]
    return [f"t{token_id}" for token_id in prompt.token_ids]


def _logprob(text: str, index: int, num_alternatives: int) -> TokenLogprob:
    others = tuple(TokenAlternative(1000 + rank, f"alt{rank}", -1.0 - rank) for rank in range(num_alternatives))
    return TokenLogprob(index, text, -0.5, others)


def _prompt_logprobs(words: list[str]) -> tuple[TokenLogprob | None, ...]:
    return (None, *(TokenLogprob(100 + index, word, -2.0) for index, word in enumerate(words[1:], start=1)))
