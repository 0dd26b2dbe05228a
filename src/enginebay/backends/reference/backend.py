"""The reference engine as a `Backend`: text in, text out, around the process that computes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import TypeVar

from enginebay import __version__
from enginebay.backend import BackendContext
from enginebay.backends.reference.capabilities import capabilities
from enginebay.backends.reference.draft_vocabulary import check_draft_vocabulary
from enginebay.backends.reference.effective_settings import effective_settings
from enginebay.backends.reference.engine_port import MakeProcess, ProcessPort
from enginebay.backends.reference.engine_requests import engine_request, refuse_impossible
from enginebay.backends.reference.engine_stats import engine_stats
from enginebay.backends.reference.engine_stream import failure
from enginebay.backends.reference.launch_plan import engine_config
from enginebay.backends.reference.options import ReferenceOptions
from enginebay.backends.reference.output_text import OutputText
from enginebay.backends.reference.prompts import fitting, is_short, prompt_token_ids
from enginebay.backends.reference.tokenizer import ModelTokenizer
from enginebay.backends.request_metrics import RequestMetrics
from enginebay.chunks import joined
from enginebay.engine.request import EngineOutput
from enginebay.errors import DeadlineExceeded, DownloadFailed, EngineDied, NotStarted
from enginebay.models.progress import PullProgress
from enginebay.models.sources import resolve_model
from enginebay.types import (
    BackendInfo,
    EngineStats,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    Prompt,
    TokenIds,
)

T = TypeVar("T")

_NUM_TOKENIZER_THREADS = 2


class ReferenceBackend:
    def __init__(self, context: BackendContext, *, make_process: MakeProcess) -> None:
        """make_process: called once, when the weights are there."""
        self._context = context
        self._options: ReferenceOptions = context.options
        self._clock = context.clock
        self._make_process = make_process
        self._seeds = random.Random(_seed(context))
        self._numbers = count()
        self._is_closed = False
        self._metrics = RequestMetrics()
        self._process: ProcessPort | None = None
        self._tokenizer: ModelTokenizer | None = None
        self._threads = ThreadPoolExecutor(_NUM_TOKENIZER_THREADS, thread_name_prefix=f"{context.name}-tokenizer")
        self._info = BackendInfo(
            kind="reference",
            name=context.name,
            model=str(context.settings.get("served_model_name") or context.model),
            capabilities=capabilities(None, self._options),
            engine_version=__version__,
        )

    @property
    def info(self) -> BackendInfo:
        return self._info

    # ---------------------------------------------------------------- life

    async def start(self) -> None:
        model_dir, tokenizer_dir, draft_dir = await self._in_thread(self._resolve)
        self._tokenizer = await self._in_thread(lambda: ModelTokenizer.from_directory(tokenizer_dir))
        config = engine_config(self._context.settings, self._options, model_dir, draft_dir=draft_dir)
        if self._is_closed:
            raise self._closed()
        process = self._make_process(
            config,
            name=self._context.name,
            clock=self._clock,
            start_timeout_s=self._options.start_timeout_s,
            environment=self._context.environment,
        )
        self._process = process
        await process.start()
        ready = process.ready
        settings = effective_settings(config, ready)
        self._info = replace(self._info, max_model_len=ready.max_model_len, effective_settings=settings)

    async def aclose(self) -> None:
        self._is_closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._process is not None:
            await self._process.aclose()

    async def health(self) -> Health:
        if self._process is None:
            return Health(HealthState.LOADING, "the weights are being fetched or read")
        return self._process.health()

    async def stats(self) -> EngineStats:
        """Raises EngineDied: the last counters of an engine that is gone would pass for those of a living one."""
        process = self._started_process
        health = process.health()
        if health.state is HealthState.DEAD:
            raise EngineDied(health.reason, backend=self._info.name)
        return engine_stats(process.counters, self._metrics)

    # ---------------------------------------------------------------- requests

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Token ids are checked at the call; how long a text is, is known at the first `__anext__`."""
        ready = self._started_process.ready
        refuse_impossible(request, vocab_size=ready.vocab_size)
        if isinstance(request.prompt, TokenIds):
            fitting(request, list(request.prompt.token_ids), max_model_len=ready.max_model_len)
        seed = request.sampling.seed
        chunks = self._chunks(request, seed=self._seeds.getrandbits(62) if seed is None else seed)
        return _as_one(chunks) if request.delivery == "final" else chunks

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return tuple(await self._token_ids(prompt))

    async def reset_prefix_cache(self) -> None:
        """Messages keep their order: a request that is sent after this finds nothing."""
        self._started_process.reset_prefix_cache()

    async def _chunks(self, request: GenerationRequest, *, seed: int) -> AsyncGenerator[GenerationChunk, None]:
        """Leaving this generator in any way, the engine forgets the request."""
        process, tokenizer = self._started_process, self._started_tokenizer
        times = self._metrics.begin(arrived_at=self._clock.now())
        stream = None
        try:
            self._refuse_late(request)
            all_token_ids = await self._token_ids(request.prompt)
            token_ids = fitting(request, all_token_ids, max_model_len=process.ready.max_model_len)
            text = OutputText(request, tokenizer.bytes, prompt_token_ids=token_ids)
            self._refuse_late(request)  # a long prompt takes its time, and an engine that computes it takes more
            stream = process.submit(
                engine_request(
                    request,
                    token_ids,
                    request_id=f"{request.request_id}#{next(self._numbers)}",
                    seed=seed,
                    arrived_at=times.arrived_at,
                )
            )
            times.prompt(len(token_ids))
            outputs = aiter(stream)
            is_last = False
            while not is_last:
                output, received_at = await self._next_output(outputs, request.deadline_at)
                chunk = text.push(output, received_at=received_at)
                is_last = chunk.finish_reason is not None
                times.queued(output.queue_s)
                times.chunk(chunk)
                if is_last:
                    chunk = _with_discarded(chunk, stream.num_unread_tokens)
                    stream.cancel()  # a stop string ends the text while the engine would go on
                yield chunk
        except (asyncio.CancelledError, GeneratorExit):
            times.cancelled()
            raise
        except DeadlineExceeded:
            self._metrics.num_deadline_exceeded += 1
            raise
        finally:
            if stream is not None:
                stream.cancel()
            times.end()

    def _refuse_late(self, request: GenerationRequest) -> None:
        if request.deadline_at is not None and request.deadline_at <= self._clock.now():
            raise DeadlineExceeded("the request's deadline had passed before the engine was asked", field="deadline_at")

    async def _next_output(
        self, outputs: AsyncIterator[tuple[EngineOutput, float]], deadline_at: float | None
    ) -> tuple[EngineOutput, float]:
        try:
            async with asyncio.timeout(None if deadline_at is None else max(0.0, deadline_at - self._clock.now())):
                output, received_at = await anext(outputs)
        except TimeoutError as error:
            raise DeadlineExceeded(
                "the request's deadline passed before its output was complete", field="deadline_at"
            ) from error
        except StopAsyncIteration as error:
            raise EngineDied("the engine ended the stream without a last output", backend=self._info.name) from error
        if output.error is not None:
            raise failure(output, backend=self._info.name)
        return output, received_at

    async def _token_ids(self, prompt: Prompt) -> list[int]:
        tokenizer = self._started_tokenizer
        if is_short(prompt):
            return prompt_token_ids(prompt, tokenizer)
        return await self._in_thread(lambda: prompt_token_ids(prompt, tokenizer))

    # ---------------------------------------------------------------- details of the start

    def _resolve(self) -> tuple[Path, Path, Path | None]:
        """Directories of the weights, of the tokenizer, and of a draft model. Blocking; may download."""
        settings = self._context.settings
        revision = settings.get("revision")
        model_dir = self._resolved(self._context.model, revision=None if revision is None else str(revision))
        tokenizer_dir = self._second_model("tokenizer")
        draft_dir = self._second_model("speculative_draft_model")
        if draft_dir is not None:
            check_draft_vocabulary(model_dir, draft_dir)
        return model_dir, tokenizer_dir or model_dir, draft_dir

    def _second_model(self, setting: str) -> Path | None:
        """A directory that a setting names; None where it is not set."""
        source = self._context.settings.get(setting)
        if source is None:
            return None
        directory = Path(str(source))
        return directory if directory.is_dir() else self._resolved(str(source), revision=None)

    def _resolved(self, source: str, *, revision: str | None) -> Path:
        return resolve_model(source, revision=revision, offline=self._options.offline, progress=self._stop_if_closed)

    def _stop_if_closed(self, progress: PullProgress) -> None:
        """A thread can't be cancelled: a download ends at its next report once nobody waits for it."""
        if self._is_closed:
            raise DownloadFailed(f"the backend was closed while {self._context.model} was fetched")

    async def _in_thread(self, work: Callable[[], T]) -> T:
        """Raises NotStarted where closing took the work away: nobody has cancelled the task that waits for it."""
        if self._is_closed:
            raise self._closed()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._is_closed and (task is None or not task.cancelling()):
                raise self._closed() from None
            raise

    def _closed(self) -> NotStarted:
        return NotStarted("the reference engine was closed", backend=self._info.name)

    @property
    def _started_process(self) -> ProcessPort:
        if self._process is None or self._tokenizer is None:
            raise NotStarted("the reference engine is not started", backend=self._info.name)
        return self._process

    @property
    def _started_tokenizer(self) -> ModelTokenizer:
        if self._tokenizer is None:
            raise NotStarted("the reference engine is not started", backend=self._info.name)
        return self._tokenizer


def _seed(context: BackendContext) -> int:
    seed = context.settings.get("seed", context.seed)
    assert isinstance(seed, int)
    return seed


def _with_discarded(chunk: GenerationChunk, num_tokens: int) -> GenerationChunk:
    """The last chunk, with the tokens that the engine sent after the end; the process counts those itself."""
    if not num_tokens or chunk.usage is None:
        return chunk
    num_discarded_tokens = chunk.usage.num_discarded_tokens + num_tokens
    return replace(chunk, usage=replace(chunk.usage, num_discarded_tokens=num_discarded_tokens))


async def _as_one(chunks: AsyncGenerator[GenerationChunk, None]) -> AsyncGenerator[GenerationChunk, None]:
    parts = [chunk async for chunk in chunks]
    yield joined(parts)
