"""A scripted engine process: says what it was asked, and sends the outputs that a test gives it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

import msgspec

from enginebay.clock import Clock
from enginebay.engine.request import EngineCounters, EngineOutput, EngineRequest
from enginebay.engine.settings import EngineConfig
from enginebay.types import Health, HealthState


class FakeReady(msgspec.Struct, frozen=True):
    max_model_len: int = 64
    vocab_size: int = 401
    dtype: str = "float32"


Script = Callable[[EngineRequest], Iterable[EngineOutput | Exception]]


class FakeStream:
    def __init__(
        self, request: EngineRequest, outputs: Iterable[EngineOutput | Exception], *, at_end: asyncio.Event
    ) -> None:
        self.request = request
        self.is_cancelled = False
        self.num_read = 0
        self.num_unread_tokens = 0
        self._at_end = at_end
        self._outputs = iter(outputs)

    def __aiter__(self) -> FakeStream:
        return self

    async def __anext__(self) -> tuple[EngineOutput, float]:
        """Waits for ever when the script is at its end: only a cancel ends that."""
        await asyncio.sleep(0)
        output = next(self._outputs, None)
        if output is None:
            self._at_end.set()
            await asyncio.Event().wait()
        if isinstance(output, Exception):
            raise output
        assert output is not None
        self.num_read += 1
        return output, 100.0 + self.num_read

    def cancel(self) -> None:
        self.is_cancelled = True


class FakeProcess:
    def __init__(self, script: Script, *, ready: FakeReady | None = None) -> None:
        self.script = script
        self.ready = ready or FakeReady()
        self.counters = EngineCounters(num_steps=7, num_blocks=10, num_free_blocks=4, num_discarded_tokens=1)
        self.streams: list[FakeStream] = []
        self.config: EngineConfig | None = None
        self.environment: Mapping[str, str] = {}
        self.is_closed = False
        self.health_now = Health(HealthState.READY)
        self.at_end = asyncio.Event()
        """Set when a stream waits for more than its script has."""

    def __call__(
        self,
        config: EngineConfig,
        /,
        *,
        name: str,
        clock: Clock,
        start_timeout_s: float,
        environment: Mapping[str, str],
    ) -> FakeProcess:
        self.config = config
        self.environment = environment
        return self

    async def start(self) -> None:
        await asyncio.sleep(0)

    def submit(self, request: EngineRequest, /) -> FakeStream:
        stream = FakeStream(request, self.script(request), at_end=self.at_end)
        self.streams.append(stream)
        return stream

    def health(self) -> Health:
        return self.health_now

    async def aclose(self) -> None:
        self.is_closed = True


def says(*token_ids: int, finish_reason: str | None = "length", stop_token_id: int | None = None) -> Script:
    """One output for each token, and nothing more."""

    def script(request: EngineRequest) -> Iterable[EngineOutput]:
        for index, token_id in enumerate(token_ids):
            is_last = index == len(token_ids) - 1
            yield EngineOutput(
                request_id=request.request_id,
                token_ids=[token_id],
                finish_reason=finish_reason if is_last else None,
                stop_token_id=stop_token_id if is_last else None,
            )

    return script
