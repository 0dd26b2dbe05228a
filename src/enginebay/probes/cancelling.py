"""Probes of leaving a stream early: the slot must be free again, as the engine's own metrics tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from enginebay.backend import Backend
from enginebay.errors import EngineBayError
from enginebay.probes.asking import LONG_TEXT, ask, ask_all, greedy, long
from enginebay.probes.probe import Probe, ProbeFailed, ProbeSkipped, expect
from enginebay.types import GenerationRequest

FREE_WITHIN_S = 10.0
SEEN_WITHIN_S = 10.0
"""Some engines publish their gauges once in many steps."""
_POLL_S = 0.05
_NUM_STABLE_POLLS = 4
"""A request that is on its way into the engine is in no metric yet: free means free for a while."""
_MOST_CANCELLED = 32

Leave = Callable[[Backend], Awaitable[None]]


def _freed_after(leave: Leave) -> Callable[[Backend], Awaitable[str]]:
    async def probe(backend: Backend) -> str:
        before = await _num_in_flight(backend)
        if before is None:
            await _leave_often(backend, leave)
            raise ProbeSkipped(
                f"the engine does not tell what is running; after {_MOST_CANCELLED} streams that were left, it still "
                "answers"
            )
        await leave(backend)
        duration_s = await _until_free(backend, before)
        await ask(backend, greedy(backend, max_tokens=4))
        return f"free after {duration_s * 1e3:.0f} ms"

    return probe


async def _num_in_flight(backend: Backend) -> float | None:
    stats = await backend.stats()
    if stats.requests_running is None:
        return None
    return stats.requests_running + (stats.requests_waiting or 0.0)


async def _until_free(backend: Backend, before: float) -> float:
    """Seconds until the engine has no more in flight than `before`."""
    begun_at = time.monotonic()
    free_at, num_stable = begun_at, 0
    while True:
        now, in_flight = time.monotonic(), await _num_in_flight(backend)
        expect(in_flight is not None, "the engine no longer tells what is running")
        if in_flight is not None and in_flight <= before:
            free_at = now if num_stable == 0 else free_at
            num_stable += 1
            if num_stable == _NUM_STABLE_POLLS:
                return free_at - begun_at
        else:
            num_stable = 0
            if now - begun_at > FREE_WITHIN_S:
                raise ProbeFailed(f"{in_flight:g} requests are in flight {FREE_WITHIN_S:g} s later, before {before:g}")
        await asyncio.sleep(_POLL_S)


async def _leave_often(backend: Backend, leave: Leave) -> None:
    """As many as any engine of default settings has slots for, some at once; then it must still answer."""
    for _ in range(_MOST_CANCELLED // 8):
        await asyncio.gather(*(leave(backend) for _ in range(8)))
    await ask_all(backend, [greedy(backend, max_tokens=4) for _ in range(8)])


# ---------------------------------------------------------------- ways to leave


async def _never_begin(backend: Backend) -> None:
    stream = backend.generate(long(backend))
    await stream.aclose()
    backend.generate(long(backend))  # let go of, not even closed


async def _cancel_before_first_chunk(backend: Backend) -> None:
    """At several moments, since how soon the first chunk comes differs between engines."""
    for delay_s in (0.0, 0.001, 0.005, 0.02):
        text = " ".join([LONG_TEXT] * (4 if _has_room(backend) else 1))
        task = asyncio.ensure_future(_until_first_chunk(backend, long(backend, text=text)))
        await asyncio.wait({task}, timeout=delay_s)
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error


async def _until_first_chunk(backend: Backend, request: GenerationRequest) -> None:
    stream = backend.generate(request)
    try:
        await anext(stream)
    finally:
        await stream.aclose()


def _has_room(backend: Backend) -> bool:
    return backend.info.max_model_len is None or backend.info.max_model_len >= 1024


async def _cancel_in_the_middle(backend: Backend) -> None:
    begun = asyncio.Event()
    task = asyncio.ensure_future(_consume(backend, long(backend), begun))
    beginning = asyncio.ensure_future(begun.wait())
    await asyncio.wait({task, beginning}, return_when=asyncio.FIRST_COMPLETED)
    task.cancel()
    beginning.cancel()
    await asyncio.wait({task, beginning})
    if not task.cancelled() and (error := task.exception()) is not None:
        raise error


async def _consume(backend: Backend, request: GenerationRequest, begun: asyncio.Event) -> None:
    async for chunk in backend.generate(request):
        if chunk.text:
            begun.set()


async def _time_out(backend: Backend) -> None:
    begun = asyncio.Event()
    try:
        async with asyncio.timeout(None) as limit:
            watcher = asyncio.ensure_future(_expire(limit, begun))
            try:
                await _consume(backend, long(backend), begun)
            finally:
                watcher.cancel()
    except TimeoutError:
        return


async def _expire(limit: asyncio.Timeout, begun: asyncio.Event) -> None:
    await begun.wait()
    limit.reschedule(asyncio.get_running_loop().time())


async def _leave_the_loop(backend: Backend) -> None:
    stream = backend.generate(long(backend))
    try:
        async for chunk in stream:
            if chunk.text:
                break
    finally:
        await stream.aclose()


async def _cancel_anyio_scope(backend: Backend) -> None:
    try:
        import anyio
    except ImportError:
        raise ProbeSkipped("anyio is not installed") from None
    with anyio.CancelScope() as scope:
        async for chunk in backend.generate(long(backend)):
            if chunk.text:
                scope.cancel()


async def _many_at_once(backend: Backend) -> None:
    async def leave() -> None:
        try:
            await _cancel_in_the_middle(backend)
        except EngineBayError as error:
            raise ProbeFailed(f"{type(error).__name__}: {error}") from error

    await asyncio.gather(*(leave() for _ in range(16)))


async def _running_is_told(backend: Backend) -> str:
    """What the other probes here rest on: a gauge that never moves would show every slot as free."""
    before = await _num_in_flight(backend)
    if before is None:
        raise ProbeSkipped("the engine does not tell what is running")
    begun = asyncio.Event()
    task = asyncio.ensure_future(_consume(backend, long(backend), begun))
    begun_at = time.monotonic()
    try:
        while not task.done():
            in_flight = await _num_in_flight(backend)
            if in_flight is not None and in_flight > before:
                return f"seen after {(time.monotonic() - begun_at) * 1e3:.0f} ms"
            expect(
                time.monotonic() - begun_at < SEEN_WITHIN_S,
                f"{in_flight} requests are in flight {SEEN_WITHIN_S:g} s after one more was begun, before {before:g}",
            )
            await asyncio.sleep(_POLL_S)
        task.result()
        raise ProbeSkipped("the answer was over before it could be seen")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await _until_free(backend, before)


def _probe(name: str, description: str, leave: Leave) -> Probe:
    return Probe(name=name, description=description, run=_freed_after(leave), time_limit_s=120.0)


CANCEL_PROBES = (
    Probe(
        name="statistics tell a request while it runs",
        description="requests_running, or requests_waiting, rises when one is begun and falls when it is left.",
        run=_running_is_told,
    ),
    _probe(
        "a stream that is never begun takes no slot",
        "generate() alone starts nothing, whether the stream is closed or let go of.",
        _never_begin,
    ),
    _probe(
        "cancelling before the first chunk frees the slot",
        "The consumer's task is cancelled at several moments before the first chunk.",
        _cancel_before_first_chunk,
    ),
    _probe(
        "cancelling in the middle frees the slot",
        "The consumer's task is cancelled after the first text.",
        _cancel_in_the_middle,
    ),
    _probe(
        "leaving the loop frees the slot",
        "The consumer breaks out of its loop and closes the stream.",
        _leave_the_loop,
    ),
    _probe("a time-out frees the slot", "The consumer is cut off by asyncio.timeout.", _time_out),
    _probe(
        "a cancelled anyio scope frees the slot",
        "Inside a cancelled scope every further wait is cancelled again, those of a clean-up too.",
        _cancel_anyio_scope,
    ),
    _probe("cancelling sixteen at once frees all slots", "Sixteen consumers are cancelled together.", _many_at_once),
)
