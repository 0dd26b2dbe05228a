"""What a plugin writes to bring an engine into the worker process: one class, run by `serve_engine`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from enginebay.types import Capabilities, EngineStats, GenerationChunk, GenerationRequest, Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What is known once the engine has started."""

    engine_version: str | None = None
    max_model_len: int | None = None
    capabilities: Capabilities | None = None
    """None keeps the declared ones."""
    effective_settings: Mapping[str, object] = field(default_factory=dict[str, object])
    """Portable names where the engine tells them, and keys of its own; plain values only."""
    simulated: bool = False


@runtime_checkable
class ForeignEngine(Protocol):
    """Everything runs on the child's event loop, in its main thread; what blocks it blocks every request.

    Errors of `enginebay.errors` cross to the parent as they are, all others as EngineStepFailed (of a request) or
    StartFailed. An EngineDied ends the engine for good.
    """

    async def start(self, keywords: Mapping[str, object]) -> EngineFacts:
        """keywords: of the launch plan, and `model`, a directory. It may be cancelled."""
        ...

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Chunks with any `received_at`: the parent stamps them. Cancelled with its task: abort in `finally`.

        Deadlines and `delivery` are the parent's matter.
        """
        ...

    def stats(self) -> EngineStats:
        """Without waiting: it is asked every half second."""
        ...

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]: ...

    async def close(self) -> None:
        """Called once, also after a failed or cancelled start."""
        ...


@runtime_checkable
class ResetsEngineCache(Protocol):
    """Optional, told by `Feature.RESET_PREFIX_CACHE`."""

    async def reset_prefix_cache(self) -> None: ...
