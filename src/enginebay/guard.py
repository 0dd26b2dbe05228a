"""The wrapper that `get_backend` puts around every backend, so that the stream rules hold for all of them.

It checks requests before any work, turns foreign exceptions of every call into typed ones, demands chunks and exactly
one last of them, and makes clean-up synchronous: a `finally` that waits is cancelled half-way inside an anyio scope,
so an adapter that waits there is cut off and reported as a bug at once instead of leaking now and then. Where the
consumer was cancelled its cancellation goes on all the same, and the report is its note and a line in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Generator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

from enginebay.backend import Backend, CountsTokens, ResetsPrefixCache
from enginebay.errors import (
    BackendError,
    EngineBayError,
    NotStarted,
    StreamContractViolated,
    UnsupportedFeature,
)
from enginebay.request_checks import check_request
from enginebay.request_texts import check_prompt_texts
from enginebay.types import (
    BackendInfo,
    EngineStats,
    Feature,
    GenerationChunk,
    GenerationRequest,
    Health,
    HealthState,
    Prompt,
)

T = TypeVar("T")

_log = logging.getLogger(__name__)
_WAITS = "the adapter waits in its clean-up: clean-up of a stream must be synchronous"


class GuardedBackend:
    """A `Backend` with a life cycle: new, started, closed. Use it with `async with`."""

    def __init__(self, inner: Backend) -> None:
        self._inner = inner
        self._state = "new"
        self._starting: asyncio.Future[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def info(self) -> BackendInfo:
        return self._inner.info

    @property
    def inner(self) -> Backend:
        return self._inner

    async def start(self) -> None:
        if self._state != "new":
            raise BackendError("start() is single use: make a new backend with get_backend()", backend=self.info.name)
        self._state = "starting"
        num_cancels = _num_cancels()
        try:
            with _foreign_errors_wrapped("start", self.info.name):
                self._starting = asyncio.ensure_future(self._inner.start())
                await self._starting
        except BaseException as error:
            was_closed = self._closing is not None
            await self._close_after(error)
            if was_closed and isinstance(error, asyncio.CancelledError) and _num_cancels() == num_cancels:
                raise self._closed_early() from None
            raise
        if self._state != "starting":
            raise self._closed_early()
        self._state = "started"

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        self._demand_started()
        info = self._inner.info
        check_request(request, info)
        try:  # as `_foreign_errors_wrapped`, without its cost: this is in the way of every request
            stream = self._inner.generate(request)
        except EngineBayError:
            raise
        except Exception as error:
            raise _wrapped("generate", info.name, error) from error
        if not isinstance(stream, AsyncGenerator):  # pyright: ignore[reportUnnecessaryIsInstance] - it may be untyped
            raise StreamContractViolated(
                f"backend {info.name!r}: generate() returned {type(stream).__name__}, which is no async generator"
            )
        return GuardedStream(stream, backend=info.name)

    async def health(self) -> Health:
        if self._state == "new":
            return Health(HealthState.LOADING, "not started")
        if self._state == "closed":
            return Health(HealthState.DEAD, "closed")
        with _foreign_errors_wrapped("health", self.info.name):
            return await self._inner.health()

    async def stats(self) -> EngineStats:
        self._demand_started()
        with _foreign_errors_wrapped("stats", self.info.name):
            return await self._inner.stats()

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        self._demand_started()
        if not isinstance(self._inner, CountsTokens) or Feature.COUNT_TOKENS not in self.info.capabilities:
            raise UnsupportedFeature(field=Feature.COUNT_TOKENS.value, backend=self.info.name)
        check_prompt_texts(prompt)
        with _foreign_errors_wrapped("count_tokens", self.info.name):
            return await self._inner.count_tokens(prompt)

    async def reset_prefix_cache(self) -> None:
        self._demand_started()
        if not isinstance(self._inner, ResetsPrefixCache) or Feature.RESET_PREFIX_CACHE not in self.info.capabilities:
            raise UnsupportedFeature(field=Feature.RESET_PREFIX_CACHE.value, backend=self.info.name)
        with _foreign_errors_wrapped("reset_prefix_cache", self.info.name):
            await self._inner.reset_prefix_cache()

    async def aclose(self) -> None:
        """Close once, to the end, however often and from wherever this is called or cancelled.

        A start in progress is cancelled and has ended before the inner backend is closed.
        """
        self._state = "closed"
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(), name=f"close {self.info.name}")
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        if self._starting is not None and not self._starting.done():
            self._starting.cancel()
            await asyncio.wait({self._starting})
        with _foreign_errors_wrapped("aclose", self.info.name):
            await self._inner.aclose()

    async def _close_after(self, error: BaseException) -> None:
        """What is wrong with the start is what its caller hears, not what was wrong with closing after it."""
        try:
            await self.aclose()
        except EngineBayError as closing_error:
            error.add_note(f"closing failed too: {closing_error}")

    def _closed_early(self) -> NotStarted:
        return NotStarted("closed while it was starting", backend=self.info.name)

    async def __aenter__(self) -> GuardedBackend:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _demand_started(self) -> None:
        if self._state != "started":
            raise NotStarted(
                f"the backend is {self._state}: call start() or use `async with` first", backend=self.info.name
            )


class GuardedStream(AsyncGenerator[GenerationChunk, None]):
    """One stream of one consumer task. The inner generator does nothing before the first `__anext__`."""

    __slots__ = ("_backend", "_finished", "_inner", "_waiting")

    def __init__(self, inner: AsyncGenerator[GenerationChunk, None], *, backend: str) -> None:
        self._inner = inner
        self._backend = backend
        self._finished = False
        self._waiting = False

    def __aiter__(self) -> GuardedStream:
        return self

    async def __anext__(self) -> GenerationChunk:
        if self._waiting:
            raise StreamContractViolated("a stream has one consumer: another task is waiting for its next chunk")
        self._waiting = True
        try:
            chunk = await _cancelled_synchronously(self._inner.__anext__())
        except StopAsyncIteration:
            if not self._finished:
                self._finished = True
                raise StreamContractViolated(
                    f"backend {self._backend!r} ended a stream without a last chunk (finish_reason and usage)"
                ) from None
            raise
        except EngineBayError:
            self._finished = True
            raise
        except Exception as error:
            self._finished = True
            raise BackendError(f"the stream failed: {error!r}", backend=self._backend) from error
        except BaseException:
            self._finished = True
            raise
        finally:
            self._waiting = False
        problem = self._problem(chunk)
        if problem is not None:
            await self.aclose()
            raise StreamContractViolated(f"backend {self._backend!r} {problem}")
        self._finished = chunk.finish_reason is not None
        return chunk

    async def asend(self, value: None) -> GenerationChunk:
        return await self.__anext__()

    async def athrow(self, typ: Any, val: Any = None, tb: Any = None, /) -> GenerationChunk:
        await self.aclose()
        if isinstance(typ, BaseException):
            raise typ
        raise val if isinstance(val, BaseException) else typ()

    async def aclose(self) -> None:
        """For the consumer itself, between chunks. To end a stream from elsewhere, cancel its task."""
        if self._waiting:
            raise StreamContractViolated(
                "aclose() was called while the consumer waits for a chunk: cancel the consumer's task instead"
            )
        self._finished = True
        await _cancelled_synchronously(self._inner.aclose(), always=True)

    def _problem(self, chunk: GenerationChunk) -> str | None:
        if not isinstance(chunk, GenerationChunk):  # pyright: ignore[reportUnnecessaryIsInstance] - it may be untyped
            return f"sent a {type(chunk).__name__}, which is no GenerationChunk"
        if self._finished:
            return "sent a chunk after the last one"
        if chunk.finish_reason is not None and chunk.usage is None:
            return "sent a last chunk without usage"
        return None


class _cancelled_synchronously(Awaitable[T]):  # noqa: N801 - reads as a verb at its call
    """Await an awaitable of a generator, and demand that it does not wait any more once it was cancelled.

    A time-out inside the adapter (`asyncio.timeout`) also arrives as CancelledError, but is no cancellation of the
    task: it may be caught and waited after. `always` demands that it never waits at all (`aclose`).
    """

    __slots__ = ("_always", "_awaitable")

    def __init__(self, awaitable: Awaitable[T], *, always: bool = False) -> None:
        self._awaitable = awaitable
        self._always = always

    def __await__(self) -> Generator[Any, Any, T]:
        steps: Any = self._awaitable.__await__()
        try:
            waits_for = next(steps)
        except StopIteration as stop:
            return stop.value  # it was there already, as most chunks are
        if self._always:
            _cut_off(steps)
            raise StreamContractViolated(_WAITS)
        num_cancels = _num_cancels()
        while True:
            send_error: BaseException | None = None
            try:
                yield waits_for
            except BaseException as error:  # noqa: BLE001 - handed on to the generator
                send_error = error
            try:
                waits_for = next(steps) if send_error is None else steps.throw(send_error)
            except StopIteration as stop:
                return stop.value
            if isinstance(send_error, asyncio.CancelledError) and _num_cancels() > num_cancels:
                _cut_off(steps)
                send_error.add_note(_WAITS)
                _log.error(_WAITS)
                raise send_error


@contextmanager
def _foreign_errors_wrapped(call: str, backend: str) -> Generator[None, None, None]:
    try:
        yield
    except EngineBayError:
        raise
    except Exception as error:
        raise _wrapped(call, backend, error) from error


def _wrapped(call: str, backend: str, error: Exception) -> BackendError:
    return BackendError(f"{call} failed: {error!r}", backend=backend)


def _num_cancels() -> int:
    """Cancellations of this task that nobody has taken back. One from before a stream is none of the stream's."""
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()


def _cut_off(steps: Any) -> None:
    """End a generator that waits, now: closing its steps alone would leave it to the garbage collection."""
    try:
        steps.throw(GeneratorExit())
    except (GeneratorExit, StopIteration, StopAsyncIteration):
        return
    steps.close()  # it waits again: nothing more can be done for it
