"""Probes that need a backend of their own: its start, its end, and the death of its engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from enginebay.backend import Backend
from enginebay.clock import Clock, MonotonicClock
from enginebay.errors import BackendError, EngineBayError, NotStarted
from enginebay.probes.asking import ask, greedy, long
from enginebay.probes.judging import judge
from enginebay.probes.probe import LifeCycleProbe, ProbeFailed, ProbeResult, ProbeSkipped, Subject, expect
from enginebay.types import HealthState

DEAD_WITHIN_S = 30.0


async def run_life_cycle_probe(
    probe: LifeCycleProbe, subject: Subject, *, time_limit_factor: float = 1.0, clock: Clock | None = None
) -> ProbeResult:
    clock = clock or MonotonicClock()
    begun_at = clock.now()
    outcome, detail = await judge(probe.run(subject), time_limit_s=probe.time_limit_s * time_limit_factor)
    return ProbeResult(name=probe.name, outcome=outcome, detail=detail, duration_s=clock.now() - begun_at)


@asynccontextmanager
async def _started(subject: Subject) -> AsyncIterator[Backend]:
    backend = subject.make()
    try:
        await backend.start()
        yield backend
    finally:
        await backend.aclose()


async def _refuses_before_start(subject: Subject) -> None:
    backend = subject.make()
    try:
        await _expect_not_started(backend, "before start()")
        health = await backend.health()
        expect(health.state is not HealthState.READY, "health says ready before start()")
    finally:
        await backend.aclose()


async def _refuses_after_close(subject: Subject) -> None:
    async with _started(subject) as backend:
        await ask(backend, greedy(backend, max_tokens=2))
    await _expect_not_started(backend, "after aclose()")
    health = await backend.health()
    expect(health.state is HealthState.DEAD, f"health says {health.state.value} after aclose()")


async def _expect_not_started(backend: Backend, when: str) -> None:
    try:
        stream = backend.generate(greedy(backend, max_tokens=2))
    except NotStarted:
        return
    await stream.aclose()
    raise ProbeFailed(f"generate() {when} raised no NotStarted at the call")


async def _closes_twice(subject: Subject) -> None:
    async with _started(subject) as backend:
        await backend.aclose()
    unstarted = subject.make()
    await unstarted.aclose()
    await unstarted.aclose()


async def _closes_under_a_stream(subject: Subject) -> str:
    backend = subject.make()
    begun = asyncio.Event()
    consumer: asyncio.Future[None] | None = None
    try:
        await backend.start()
        consumer = asyncio.ensure_future(_consume(backend, begun))
        await _until_begun(begun, consumer)
    finally:
        await backend.aclose()
    try:
        return await _typed_end(consumer, "aclose() during a stream")
    finally:
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)


async def _start_can_be_cancelled(subject: Subject) -> str:
    """Once at its very beginning and once a little later; nothing may be left, which the next start shows."""
    for delay_s in (0.0, 0.05):
        backend = subject.make()
        try:
            starting = asyncio.ensure_future(backend.start())
            await asyncio.wait({starting}, timeout=delay_s)
            starting.cancel()
            await asyncio.wait({starting})
            if not starting.cancelled() and (error := starting.exception()) is not None:
                raise ProbeFailed(f"a cancelled start() raised {type(error).__name__}: {error}")
        finally:
            await backend.aclose()
    async with _started(subject) as backend:
        await ask(backend, greedy(backend, max_tokens=2))
    return "the next start answers"


async def _tells_that_it_loads(subject: Subject) -> None:
    if subject.make_loading is None:
        raise ProbeSkipped("nobody makes a backend that is loading (make_loading_backend)")
    backend = subject.make_loading()
    starting = asyncio.ensure_future(backend.start())
    try:
        await asyncio.wait({starting}, timeout=0.2)
        expect(not starting.done(), "start() returned, though the engine is loading")
        health = await backend.health()
        expect(health.state is HealthState.LOADING, f"health says {health.state.value} while it loads: {health.reason}")
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await backend.aclose()


async def _death_is_told(subject: Subject) -> str:
    """The kill comes in the middle of a stream."""
    if subject.kill is None:
        raise ProbeSkipped("nobody kills the engine (kill_engine)")
    async with _started(subject) as backend:
        begun = asyncio.Event()
        consumer = asyncio.ensure_future(_consume(backend, begun))
        try:
            await _until_begun(begun, consumer)
            await subject.kill(backend)
            told = await _typed_end(consumer, "the death of the engine", kinds=(BackendError,))
        finally:
            consumer.cancel()
            await asyncio.gather(consumer, return_exceptions=True)
        await _until_dead(backend)
        await _expect_typed_refusal(backend)
    return told


async def _consume(backend: Backend, begun: asyncio.Event) -> None:
    async for chunk in backend.generate(long(backend, max_tokens=4096)):
        if chunk.text:
            begun.set()


async def _until_begun(begun: asyncio.Event, consumer: asyncio.Future[None]) -> None:
    waiting = asyncio.ensure_future(begun.wait())
    await asyncio.wait({waiting, consumer}, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if consumer.done():
        consumer.result()
        raise ProbeSkipped("the answer was over before anything could happen to it")


async def _typed_end(
    consumer: asyncio.Future[None], what: str, *, kinds: tuple[type[EngineBayError], ...] = (EngineBayError,)
) -> str:
    await asyncio.wait({consumer}, timeout=DEAD_WITHIN_S)
    if not consumer.done():
        raise ProbeFailed(f"the stream hangs {DEAD_WITHIN_S:g} s after {what}")
    if consumer.cancelled():
        raise ProbeFailed(f"the consumer was cancelled by {what}: only its owner may cancel it")
    error = consumer.exception()
    if error is None:
        raise ProbeSkipped(f"the answer was over before {what} could be seen")
    expect(isinstance(error, kinds), f"{what} is told as {type(error).__name__}: {error}")
    return f"{type(error).__name__}: {error}"


async def _until_dead(backend: Backend) -> None:
    deadline = asyncio.get_running_loop().time() + DEAD_WITHIN_S
    while (health := await backend.health()).state is not HealthState.DEAD:
        if asyncio.get_running_loop().time() > deadline:
            raise ProbeFailed(f"health says {health.state.value} {DEAD_WITHIN_S:g} s after the death of the engine")
        await asyncio.sleep(0.05)


async def _expect_typed_refusal(backend: Backend) -> None:
    try:
        await ask(backend, greedy(backend, max_tokens=2))
    except BackendError:
        return
    raise ProbeFailed("a dead engine answered")


LIFE_CYCLE_PROBES = (
    LifeCycleProbe(
        name="before start it refuses with NotStarted",
        description="generate() raises at the call, and health does not say ready.",
        run=_refuses_before_start,
    ),
    LifeCycleProbe(
        name="after aclose it refuses with NotStarted",
        description="generate() raises at the call, and health says dead.",
        run=_refuses_after_close,
    ),
    LifeCycleProbe(
        name="aclose twice is aclose once",
        description="Of a started backend and of one that never was.",
        run=_closes_twice,
    ),
    LifeCycleProbe(
        name="aclose ends a running stream with a typed error",
        description="The consumer is neither cancelled nor left waiting.",
        run=_closes_under_a_stream,
    ),
    LifeCycleProbe(
        name="a start that is cancelled leaves nothing",
        description="start() ends, aclose() returns, and the next backend starts and answers.",
        run=_start_can_be_cancelled,
    ),
    LifeCycleProbe(
        name="health says loading while the engine loads",
        description="Needs a backend whose engine takes its time.",
        run=_tells_that_it_loads,
    ),
    LifeCycleProbe(
        name="an engine that is killed gives a typed error",
        description="In the middle of a stream: a BackendError within 30 s, then health says dead.",
        run=_death_is_told,
    ),
)
