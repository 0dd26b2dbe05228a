"""What differs between engines behind HTTP: paths, bodies, framing, errors, health, metrics. Nothing here waits alone.

An adapter writes one class with these methods; `HttpEngineBackend` does the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from enginebay.errors import BackendError, BackendTimeout, EngineBayError
from enginebay.types import (
    BackendInfo,
    EngineStats,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    Prompt,
)
from enginebay.wire.http_client import HttpClient

JSON_HEADERS: Mapping[str, str] = {"content-type": "application/json"}
PROBE_TIMEOUT_S = 5.0
"""Of health, metrics and everything else that is not a generation."""


def health_without_answer(error: BackendError, *, was_ready: bool) -> Health:
    """One that was ready and does not answer in time is slow; only one that no longer listens is dead."""
    if not was_ready:
        return Health(HealthState.LOADING, str(error))
    return Health(HealthState.DEGRADED if isinstance(error, BackendTimeout) else HealthState.DEAD, str(error))


class AnswerDecoder(Protocol):
    """For the answer to one request. It keeps the rule of exactly one last chunk, with finish reason and usage."""

    @property
    def is_finished(self) -> bool:
        """The last chunk was given out; whatever follows is ignored."""
        ...

    def feed(self, data: bytes, received_at: float) -> Iterable[GenerationChunk]:
        """The chunks that these bytes complete; raises the typed error that the server sent inside the stream."""
        ...

    def end(self, received_at: float) -> Iterable[GenerationChunk]:
        """The bytes have ended. Raises BackendUnavailable when the answer was cut off."""
        ...

    def whole(self, body: bytes, received_at: float) -> GenerationChunk:
        """The one chunk of an answer that was not streamed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCall:
    """One request as bytes, and who reads its answer."""

    path: str
    body: bytes
    decoder: AnswerDecoder
    is_streamed: bool = True
    headers: Mapping[str, str] = field(default_factory=lambda: JSON_HEADERS)


class EngineApi(Protocol):
    """One engine's HTTP API. Stateless but for what `identify` has learnt."""

    def call(self, request: GenerationRequest, info: BackendInfo) -> HttpCall:
        """Raises UnsupportedFeature, naming the field, for what the engine would drop or do otherwise."""
        ...

    def error(self, status: int, body: bytes, headers: Mapping[str, str]) -> EngineBayError:
        """The typed error that an answer other than 200 stands for. Never raises."""
        ...

    async def health(self, http: HttpClient) -> Health:
        """Never raises for a server that does not answer: it is dead, or not there yet."""
        ...

    async def identify(self, http: HttpClient, info: BackendInfo) -> BackendInfo:
        """Ask the ready server what it is: model, version, limits, effective settings, simulated.

        Raises StartFailed when it does not serve the model, or refuses us.
        """
        ...

    async def stats(self, http: HttpClient) -> EngineStats: ...


@runtime_checkable
class CountsTokensOverHttp(Protocol):
    async def count_tokens(self, http: HttpClient, prompt: Prompt, info: BackendInfo) -> tuple[int, ...]: ...


@runtime_checkable
class ResetsPrefixCacheOverHttp(Protocol):
    async def reset_prefix_cache(self, http: HttpClient) -> None: ...
