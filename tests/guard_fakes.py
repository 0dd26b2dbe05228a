"""A backend whose streams are written by the test, behind the guard."""

import asyncio
import gc
from contextlib import contextmanager

from enginebay.guard import GuardedBackend
from enginebay.types import (
    BackendInfo,
    Capabilities,
    EngineStats,
    Feature,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    SamplingParams,
    Text,
    Usage,
)

FEATURES = frozenset({Feature.TEXT_PROMPT, Feature.SEED})


def chunk(text="x"):
    return GenerationChunk(text=text, num_tokens=1, received_at=0.0)


def last_chunk(*, usage=Usage(1, 1)):  # noqa: B008 - frozen
    return GenerationChunk(received_at=0.0, finish_reason=FinishReason.STOP, usage=usage)


class Scripted:
    """A backend whose streams are written by the test; it counts the slots that its streams hold."""

    def __init__(self, stream=None, *, start=None, close=None, features=FEATURES):
        self.info = BackendInfo(
            kind="scripted", name="scripted", model="m", capabilities=Capabilities(features=features)
        )
        self.num_slots_held = 0
        self.num_slots_taken = 0
        self.num_closes = 0
        self._stream, self._start, self._close = stream, start, close

    async def start(self):
        if self._start is not None:
            await self._start()

    def generate(self, request):
        return self._stream(self)

    @contextmanager
    def slot(self):
        self.num_slots_held += 1
        self.num_slots_taken += 1
        try:
            yield
        finally:
            self.num_slots_held -= 1

    async def health(self):
        return Health(HealthState.READY)

    async def stats(self):
        return EngineStats()

    async def aclose(self):
        self.num_closes += 1
        if self._close is not None:
            await self._close()


def request(**sampling):
    return GenerationRequest(request_id="1", prompt=Text("p"), sampling=SamplingParams(max_tokens=4, **sampling))


async def two_chunks(inner):
    with inner.slot():
        yield chunk("a")
        yield chunk("b")
        yield last_chunk()


async def never(inner):
    with inner.slot():
        await asyncio.Event().wait()
        yield chunk()


async def one_then_never(inner):
    with inner.slot():
        yield chunk()
        await asyncio.Event().wait()


def run(work):
    """Run on a loop of its own, and demand that nothing is left on it."""

    async def main():
        loop = asyncio.get_running_loop()
        problems = []
        loop.set_exception_handler(lambda _, context: problems.append(context))
        await work()
        gc.collect()
        await asyncio.sleep(0)
        assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
        assert problems == []

    asyncio.run(main())


def with_stream(stream, work):
    """Give `work` a fresh stream of a started backend; afterwards no slot may be held."""

    async def main():
        inner = Scripted(stream)
        async with GuardedBackend(inner) as backend:
            await work(backend.generate(request()), inner)
        assert inner.num_slots_held == 0
        assert inner.num_closes == 1

    run(main)


async def waiting(task):
    """Until this task waits for something that won't come."""
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()


async def consume(stream):
    return [item async for item in stream]
