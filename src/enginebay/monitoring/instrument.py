"""`instrument(backend)`: the same backend, with every request recorded."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from types import TracebackType

from enginebay.backend import Backend, CountsTokens, ResetsPrefixCache
from enginebay.clock import Clock, MonotonicClock
from enginebay.errors import EngineBayError, RequestError, UnsupportedFeature
from enginebay.monitoring.exporter import Exporter
from enginebay.monitoring.request_metrics import CANCELLED, ERROR, REFUSED, RequestMetrics, RequestRecorder
from enginebay.types import BackendInfo, EngineStats, Feature, GenerationChunk, GenerationRequest, Health, Prompt


def instrument(backend: Backend, *, clock: Clock | None = None, replica: str = "0") -> InstrumentedBackend:
    """Wrap a backend so that it records the `llm_*` metrics; `await wrapped.metrics_text()` gives Prometheus text.

    backend: best what `get_backend` returned, since its guard is what bounds a stream's life.
    """
    return InstrumentedBackend(backend, clock=clock or MonotonicClock(), replica=replica)


class InstrumentedBackend:
    """A `Backend` that hands everything on and counts what passes."""

    def __init__(self, inner: Backend, *, clock: Clock, replica: str) -> None:
        self._inner = inner
        self._clock = clock
        self.metrics = RequestMetrics(clock)
        self.exporter = Exporter(inner, self.metrics, replica=replica)

    @property
    def info(self) -> BackendInfo:
        return self._inner.info

    async def start(self) -> None:
        await self._inner.start()

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        arrived_at = self._clock.now()
        try:
            stream = self._inner.generate(request)
        except EngineBayError as error:
            self.metrics.num_requests_by_outcome[REFUSED if isinstance(error, RequestError) else ERROR] += 1
            raise
        times_tokens = request.delivery == "stream"
        return self._recorded(stream, arrived_at, times_tokens=times_tokens)

    async def _recorded(
        self, stream: AsyncGenerator[GenerationChunk, None], arrived_at: float, *, times_tokens: bool
    ) -> AsyncGenerator[GenerationChunk, None]:
        """In flight from the first `__anext__`, before anything is awaited; a stream never begun counts nothing."""
        recorder = RequestRecorder(self.metrics, arrived_at, times_tokens=times_tokens)
        outcome = CANCELLED  # also what a consumer that stops early leaves behind
        try:
            async for chunk in stream:
                _record(recorder, chunk)
                if chunk.finish_reason is not None:
                    outcome = chunk.finish_reason.value
                yield chunk
        except RequestError:
            outcome = REFUSED
            raise
        except asyncio.CancelledError:
            raise
        except Exception:
            outcome = ERROR
            raise
        finally:
            recorder.end(outcome, self._clock.now())
            await stream.aclose()  # never waits: clean-up of a stream is synchronous

    async def metrics_text(self) -> bytes:
        return await self.exporter.text()

    async def health(self) -> Health:
        return await self._inner.health()

    async def stats(self) -> EngineStats:
        return await self._inner.stats()

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        if not isinstance(self._inner, CountsTokens):
            raise UnsupportedFeature(field=Feature.COUNT_TOKENS.value, backend=self.info.name)
        return await self._inner.count_tokens(prompt)

    async def reset_prefix_cache(self) -> None:
        if not isinstance(self._inner, ResetsPrefixCache):
            raise UnsupportedFeature(field=Feature.RESET_PREFIX_CACHE.value, backend=self.info.name)
        await self._inner.reset_prefix_cache()

    async def aclose(self) -> None:
        await self._inner.aclose()

    async def __aenter__(self) -> InstrumentedBackend:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _record(recorder: RequestRecorder, chunk: GenerationChunk) -> None:
    num_tokens = chunk.num_tokens if chunk.num_tokens is not None else len(chunk.token_ids or ())
    recorder.tokens(num_tokens, chunk.received_at)
    if chunk.usage is not None:
        recorder.prompt(chunk.usage.num_prompt_tokens)
        if chunk.finish_reason is not None:
            recorder.settle(chunk.usage.num_output_tokens)
    elif chunk.prompt is not None:
        recorder.prompt(len(chunk.prompt.token_ids))
