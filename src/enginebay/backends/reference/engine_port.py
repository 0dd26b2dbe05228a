"""What the text side needs of the engine's process. `EngineProcess` is the real one; tests bring their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

import msgspec

from enginebay.clock import Clock
from enginebay.engine.request import EngineCounters, EngineOutput, EngineRequest
from enginebay.engine.settings import EngineConfig
from enginebay.types import Health


class ReadyPort(Protocol):
    @property
    def max_model_len(self) -> int: ...

    @property
    def vocab_size(self) -> int: ...


class StreamPort(Protocol):
    def __aiter__(self) -> AsyncIterator[tuple[EngineOutput, float]]:
        """Outputs with the instants at which they arrived; raises EngineDied or EngineStepFailed."""
        ...

    @property
    def num_unread_tokens(self) -> int:
        """Tokens that have arrived and were not read yet."""
        ...

    def cancel(self) -> None:
        """Synchronous and idempotent; the engine frees the request's blocks within one step."""
        ...


class ProcessPort(Protocol):
    async def start(self) -> None:
        """Raises StartFailed."""
        ...

    @property
    def ready(self) -> ReadyPort: ...

    def submit(self, request: EngineRequest, /) -> StreamPort: ...

    def reset_prefix_cache(self) -> None:
        """Requests submitted after this call find nothing that was computed before it."""
        ...

    def health(self) -> Health: ...

    @property
    def counters(self) -> EngineCounters: ...

    async def aclose(self) -> None: ...


class MakeProcess(Protocol):
    def __call__(
        self,
        config: EngineConfig,
        /,
        *,
        name: str,
        clock: Clock,
        start_timeout_s: float,
        environment: Mapping[str, str],
    ) -> ProcessPort:
        """environment: added to our own."""
        ...


def described(ready: ReadyPort) -> dict[str, object]:
    """What the engine says it runs with."""
    return msgspec.structs.asdict(ready) if isinstance(ready, msgspec.Struct) else {}
