"""A foreign engine in a worker process as a `Backend`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from enginebay.backend import BackendContext, LaunchPlan
from enginebay.backends.in_process.engine_worker import EngineWorker
from enginebay.backends.in_process.interpreter import python_of
from enginebay.backends.in_process.stream import ChunkStream
from enginebay.backends.worker.log_ring import check_log_file
from enginebay.chunks import joined
from enginebay.errors import DeadlineExceeded, DownloadFailed, NotStarted
from enginebay.models.progress import PullProgress
from enginebay.models.sources import resolve_model
from enginebay.types import (
    BackendInfo,
    Capabilities,
    EngineStats,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    Prompt,
)

Keywords = Mapping[str, object]
Progress = Callable[[PullProgress], None]
Prepare = Callable[[Path, Progress], Keywords]
"""(the model's directory, where to tell progress, which raises once nobody waits) -> keywords that are added to those
of the plan. Runs in a thread of the parent, may take long, raises ModelError or StartFailed."""


class InProcessBackend:
    """Starts the worker under `context.venv`'s interpreter, else under ours."""

    def __init__(
        self,
        context: BackendContext,
        *,
        kind: str,
        worker: str,
        packages: Sequence[str],
        capabilities: Capabilities,
        plan: LaunchPlan,
        model: str | None = None,
        directory: Path | None = None,
        prepare: Prepare | None = None,
        environment: Mapping[str, str] | None = None,
        offline: bool = False,
        start_timeout_s: float = 900.0,
        stop_grace_s: float = 15.0,
        log_file: Path | None = None,
    ) -> None:
        """worker: `module:function` of the child, in one of `packages`, which it can import beside `enginebay`.

        model: the name that is shown, else the served name or the context's. directory: of the weights, where the
        context's model is not to be resolved. environment: between that of the plan and that of the context.
        The engine gets `plan.keywords`, and `model`, the directory of the weights.
        """
        self._context, self._plan, self._prepare = context, plan, prepare
        self._worker_function, self._packages = worker, tuple(packages)
        self._environment = {**plan.environment, **(environment or {}), **context.environment}
        self._directory = directory
        self._offline, self._log_file = offline, log_file
        self._start_timeout_s, self._stop_grace_s = start_timeout_s, stop_grace_s
        self._worker: EngineWorker | None = None
        self._is_started = False
        self._is_closed = False
        self._info = BackendInfo(
            kind=kind,
            name=context.name,
            model=model or str(context.settings.get("served_model_name") or context.model),
            capabilities=capabilities,
        )

    @property
    def info(self) -> BackendInfo:
        return self._info

    @property
    def pid(self) -> int | None:
        """Of the worker process."""
        return None if self._worker is None else self._worker.pid

    # ---------------------------------------------------------------- life

    async def start(self) -> None:
        python = python_of(self._context.venv)
        check_log_file(self._log_file)
        keywords = await asyncio.to_thread(self._keywords)
        if self._is_closed:
            raise NotStarted("closed while it was starting", backend=self._info.name)
        worker = self._worker = self._make_worker(python)
        facts = await worker.start(keywords)
        self._info = replace(
            self._info,
            engine_version=facts.engine_version,
            max_model_len=facts.max_model_len,
            capabilities=facts.capabilities or self._info.capabilities,
            effective_settings=dict(facts.effective_settings),
            simulated=facts.simulated,
        )
        self._is_started = True

    def _make_worker(self, python: str) -> EngineWorker:
        return EngineWorker(
            self._worker_function,
            name=self._info.name,
            clock=self._context.clock,
            python=python,
            is_our_interpreter=python == sys.executable,
            packages=self._packages,
            environment=self._environment,
            start_timeout_s=self._start_timeout_s,
            stop_grace_s=self._stop_grace_s,
            log_file=self._log_file,
        )

    def _keywords(self) -> Keywords:
        """Blocking: weights may have to be fetched first."""
        directory = self._directory or self._resolved()
        keywords: dict[str, object] = {"model": str(directory), **self._plan.keywords}
        if self._prepare is not None:
            keywords.update(self._prepare(directory, self._stop_if_closed))
        return keywords

    def _resolved(self) -> Path:
        revision = self._context.settings.get("revision")
        return resolve_model(
            self._context.model,
            revision=None if revision is None else str(revision),
            offline=self._offline,
            progress=self._stop_if_closed,
        )

    def _stop_if_closed(self, progress: PullProgress) -> None:
        """A thread can't be cancelled: it ends at its next report once nobody waits for it."""
        if self._is_closed:
            raise DownloadFailed(f"the backend was closed while {self._context.model} was prepared")

    async def aclose(self) -> None:
        self._is_closed = True
        self._is_started = False
        if self._worker is not None:
            await self._worker.aclose()

    async def health(self) -> Health:
        if self._is_closed:
            return Health(HealthState.DEAD, "closed")
        if self._worker is None:
            return Health(HealthState.LOADING, "the weights are being fetched or prepared")
        return self._worker.health()

    async def stats(self) -> EngineStats:
        """Raises EngineDied: the last counters of an engine that is gone would pass for those of a living one."""
        return await self._started.stats()

    # ---------------------------------------------------------------- requests

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        worker = self._started
        chunks = self._chunks(worker, request)
        return _as_one(chunks) if request.delivery == "final" else chunks

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return await self._started.count_tokens(prompt)

    async def reset_prefix_cache(self) -> None:
        await self._started.reset_prefix_cache()

    async def _chunks(self, worker: EngineWorker, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Leaving this generator in any way, the engine forgets the request."""
        self._remaining_s(request.deadline_at)
        number, stream = worker.submit(replace(request, deadline_at=None, delivery="stream"))
        try:
            while True:
                chunk = await self._next(stream, request.deadline_at)
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            worker.cancel(number)

    async def _next(self, stream: ChunkStream, deadline_at: float | None) -> GenerationChunk:
        if deadline_at is None:
            return await stream.next()
        try:
            async with asyncio.timeout(self._remaining_s(deadline_at)):
                return await stream.next()
        except TimeoutError as error:
            raise _late() from error

    def _remaining_s(self, deadline_at: float | None) -> float | None:
        if deadline_at is None:
            return None
        remaining_s = deadline_at - self._context.clock.now()
        if remaining_s <= 0:
            raise _late()
        return remaining_s

    @property
    def _started(self) -> EngineWorker:
        if self._worker is None or not self._is_started:
            raise NotStarted("call start() first", backend=self._info.name)
        return self._worker


def _late() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline passed before the answer was finished", field="deadline_at")


async def _as_one(chunks: AsyncGenerator[GenerationChunk, None]) -> AsyncGenerator[GenerationChunk, None]:
    parts = [chunk async for chunk in chunks]
    yield joined(parts)
