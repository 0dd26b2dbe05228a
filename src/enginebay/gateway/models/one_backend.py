"""One backend under one name: the thin server's whole catalog."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Iterable, Sequence

from enginebay.clock import Clock
from enginebay.gateway.call import Attempt, Call
from enginebay.gateway.hooks import Hooks
from enginebay.gateway.lifecycle import BackendLife
from enginebay.monitoring import InstrumentedBackend
from enginebay.monitoring.exporter import Exporter
from enginebay.types import BackendInfo, GenerationChunk, GenerationRequest, Health, Prompt


class OneBackend:
    """A `ModelCatalog` and its only `ServedModel`."""

    version = ""
    default_max_tokens = None

    def __init__(
        self, backend: InstrumentedBackend, life: BackendLife, *, name: str, replica: str, hooks: Hooks, clock: Clock
    ) -> None:
        self.backend, self.name = backend, name
        self._life, self._replica, self._hooks, self._clock = life, replica, hooks, clock
        self.created_at_unix = int(time.time())

    @property
    def info(self) -> BackendInfo:
        return self.backend.info

    def demand_ready(self) -> None:
        self._life.demand_ready()

    def stream(self, call: Call, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        attempt = Attempt(self._replica, self._clock.now())
        call.attempts.append(attempt)
        for before_engine in self._hooks.before_engine:
            before_engine(call, attempt)
        return self.backend.generate(request)

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return await self.backend.count_tokens(prompt)

    def names(self) -> Sequence[str]:
        return (self.name,)

    def find(self, name: str) -> OneBackend | None:
        return self if name == self.name else None

    def exporters(self) -> Iterable[Exporter]:
        return (self.backend.exporter,)

    @property
    def is_simulated(self) -> bool:
        return self.backend.info.simulated

    def begin(self) -> None:
        self._life.begin()

    async def wait_until_ready(self) -> None:
        await self._life.wait_until_ready()

    async def health(self) -> Health:
        return await self._life.health()

    async def wait_until_dead(self) -> str:
        return await self._life.wait_until_dead()

    async def end(self) -> None:
        await self._life.end()
