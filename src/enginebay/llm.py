"""A synchronous face for scripts and notebooks: `LLM(...)`, `generate`, `chat`, `stream`.

The backend lives on an event loop in a thread of its own, so that this works wherever a loop runs already.
"""

from __future__ import annotations

import asyncio
import queue
import weakref
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import count
from types import TracebackType
from typing import Any, cast

from enginebay.chunks import joined
from enginebay.errors import EngineBayError, InvalidRequest
from enginebay.loop_thread import LoopThread
from enginebay.plain_prompts import (
    Conversation,
    PlainPrompt,
    chat_of,
    conversations_of,
    is_conversation,
    prompt_of,
    prompts_of,
)
from enginebay.plugins import get_backend
from enginebay.types import (
    BackendInfo,
    Delivery,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Prompt,
    SamplingParams,
    TokenLogprob,
    Usage,
)

DEFAULT_SAMPLING = SamplingParams(max_tokens=256)
_MAX_IN_FLIGHT = 256
"""Requests handed to the backend at a time; the rest of a long list waits here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    index: int
    text: str
    token_ids: tuple[int, ...] | None
    """None where the engine does not tell."""
    finish_reason: FinishReason
    stop_reason: str | int | None
    logprobs: tuple[TokenLogprob, ...] | None
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationResult:
    prompt: PlainPrompt | Conversation
    """As it was given."""
    prompt_token_ids: tuple[int, ...] | None
    """None where the engine does not tell."""
    outputs: tuple[Completion, ...]

    @property
    def text(self) -> str:
        """That of the first output."""
        return self.outputs[0].text


class LLM:
    """An engine, ready when this returns. Close it or use `with`; otherwise it closes when it is let go of.

    llm = LLM("smollm2-135m", max_num_seqs=8)
    for result in llm.generate(["The sky is", "Bread is"], SamplingParams(max_tokens=20)):
        print(result.prompt, result.outputs[0].text)
    """

    def __init__(self, model: str | None = None, *, backend: str = "reference", **settings: Any) -> None:
        """settings: as `get_backend` takes them, those of the engine and of the plugin. Raises EngineBayError."""
        self._backend = get_backend(backend, model=model, **settings)
        self._numbers = count()
        self._thread = LoopThread(self._backend)
        weakref.finalize(self, self._thread.signal_close).atexit = False
        try:
            self._thread.run(self._backend.start)
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> BackendInfo:
        return self._backend.info

    def generate(
        self,
        prompts: PlainPrompt | Sequence[PlainPrompt],
        sampling: SamplingParams | None = None,
        *,
        n: int = 1,
        logprobs: int | None = None,
    ) -> list[GenerationResult]:
        """One result for each prompt, in their order. A prompt is a text, token ids, or one of `enginebay.types`.

        n: outputs for each prompt; with a seed, output i uses seed + i. logprobs: alternatives at each position.
        The first error ends the other requests and is raised as it is, with a note that names its prompt.
        """
        return self._results(prompts_of(prompts), sampling, n=n, logprobs=logprobs)

    def chat(
        self,
        messages: Conversation | Sequence[Conversation],
        sampling: SamplingParams | None = None,
        *,
        n: int = 1,
        logprobs: int | None = None,
        **fields: Any,
    ) -> list[GenerationResult]:
        """One conversation or a list of them. fields: further ones of `Chat`, such as `template_kwargs`."""
        prompts = [(given, chat_of(given, fields)) for given in conversations_of(messages)]
        return self._results(prompts, sampling, n=n, logprobs=logprobs)

    def stream(
        self,
        prompt: PlainPrompt | Conversation,
        sampling: SamplingParams | None = None,
        *,
        logprobs: int | None = None,
    ) -> Iterator[GenerationChunk]:
        """Chunks as they arrive, for one prompt or conversation. Leaving the loop early ends the request."""
        plain: Any = prompt
        is_chat = is_conversation(plain) and len(plain) > 0
        given = chat_of(plain, {}) if is_chat else prompt_of(plain)
        request = self._request(given, sampling or DEFAULT_SAMPLING, delivery="stream", logprobs=logprobs)

        async def opened() -> AsyncGenerator[GenerationChunk, None]:
            return self._backend.generate(request)

        return self._iterated(self._thread.run(opened))

    def close(self) -> None:
        """Idempotent. Calls of other threads that are still running end with NotStarted."""
        self._thread.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---------------------------------------------------------------- requests

    def _results(
        self,
        prompts: Sequence[tuple[PlainPrompt | Conversation, Prompt]],
        sampling: SamplingParams | None,
        *,
        n: int,
        logprobs: int | None,
    ) -> list[GenerationResult]:
        if n < 1:
            raise InvalidRequest(f"n must be at least 1, not {n}", field="n")
        requests = [
            self._request(prompt, _of_output(sampling or DEFAULT_SAMPLING, index), delivery="final", logprobs=logprobs)
            for _, prompt in prompts
            for index in range(n)
        ]
        chunks = self._thread.run(lambda: self._all_chunks(requests, n=n))
        return [_result(given, chunks[i * n : (i + 1) * n]) for i, (given, _) in enumerate(prompts)]

    def _request(
        self, prompt: Prompt, sampling: SamplingParams, *, delivery: Delivery, logprobs: int | None
    ) -> GenerationRequest:
        return GenerationRequest(
            request_id=f"llm-{next(self._numbers)}",
            prompt=prompt,
            sampling=_with_stop_tuple(sampling),
            delivery=delivery,
            logprobs=logprobs,
        )

    async def _all_chunks(self, requests: Sequence[GenerationRequest], *, n: int) -> list[GenerationChunk]:
        """The one chunk of each request, in their order; the first error cancels the others."""
        places = asyncio.Semaphore(_MAX_IN_FLIGHT)

        async def chunk(index: int, request: GenerationRequest) -> GenerationChunk:
            async with places:
                try:
                    return await _whole(self._backend.generate(request))
                except EngineBayError as error:
                    error.add_note(f"prompt {index // n} of {len(requests) // n}: {_shown(request.prompt)}")
                    raise

        tasks = [asyncio.ensure_future(chunk(index, request)) for index, request in enumerate(requests)]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _iterated(self, chunks: AsyncGenerator[GenerationChunk, None]) -> Iterator[GenerationChunk]:
        """A reference to self lives in this generator, so that `for chunk in LLM().stream(...)` keeps its engine."""
        arrived: queue.SimpleQueue[GenerationChunk | None] = queue.SimpleQueue()

        async def pump() -> None:
            async for chunk in chunks:
                arrived.put(chunk)

        done: Future[None] = Future()
        done.add_done_callback(lambda _: arrived.put(None))
        cancel = self._thread.begin(pump, done)
        try:
            while (chunk := arrived.get()) is not None:
                yield chunk
            self._thread.result_of(done)
        finally:
            cancel()


# ---------------------------------------------------------------- pieces


def _of_output(sampling: SamplingParams, index: int) -> SamplingParams:
    """Every output of one prompt has its own noise: seed, seed + 1, ..."""
    if sampling.seed is None or index == 0:
        return sampling
    return replace(sampling, seed=sampling.seed + index)


def _with_stop_tuple(sampling: SamplingParams) -> SamplingParams:
    """A script may write one stop string as it is, or a list of them."""
    stop: object = sampling.stop
    if isinstance(stop, str):
        return replace(sampling, stop=(stop,))
    return replace(sampling, stop=tuple(cast(list[str], stop))) if isinstance(stop, list) else sampling


async def _whole(chunks: AsyncGenerator[GenerationChunk, None]) -> GenerationChunk:
    """A backend may send a final delivery in several chunks all the same: the engine behind it decides."""
    return joined([chunk async for chunk in chunks])


def _result(prompt: PlainPrompt | Conversation, chunks: Sequence[GenerationChunk]) -> GenerationResult:
    echo = chunks[0].prompt
    return GenerationResult(
        prompt=prompt,
        prompt_token_ids=None if echo is None else echo.token_ids,
        outputs=tuple(_completion(index, chunk) for index, chunk in enumerate(chunks)),
    )


def _completion(index: int, chunk: GenerationChunk) -> Completion:
    assert chunk.finish_reason is not None
    assert chunk.usage is not None  # the guard demands both of a last chunk
    return Completion(
        index=index,
        text=chunk.text,
        token_ids=chunk.token_ids,
        finish_reason=chunk.finish_reason,
        stop_reason=chunk.stop_reason,
        logprobs=chunk.logprobs,
        usage=chunk.usage,
    )


def _shown(prompt: Prompt) -> str:
    text = repr(prompt)
    return text if len(text) <= 120 else f"{text[:117]}..."
