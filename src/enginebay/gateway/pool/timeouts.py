"""Bounds of the time that a replica may take: to the first token, between tokens, and in all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from dataclasses import dataclass
from typing import TypeVar

from enginebay.clock import Clock
from enginebay.errors import BackendTimeout, EngineBayError
from enginebay.types import GenerationChunk
from enginebay.wire.deadlines import NEVER, DeadlineWatch

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """To open a connection has a bound of its own, in the options of the backend."""

    first_token_s: float = 60.0
    between_tokens_s: float = 30.0
    total_s: float = 600.0
    """Of a request from its first attempt on, with all that follow; the only bound of one that is not streamed."""


class Expiry:
    """Cancels the task that made it at an instant; that task then asks whether this was all that cancelled it."""

    __slots__ = ("_num_cancels", "_task", "_watch", "deadline_at", "error")

    def __init__(self, watch: DeadlineWatch) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._watch = task, watch
        self._num_cancels = task.cancelling()
        self.deadline_at = NEVER
        self.error: EngineBayError | None = None
        """Set when it struck, by `abandon`."""
        watch.add(self)

    def at(self, instant: float) -> None:
        """Before each wait. It costs no more than a comparison."""
        self.deadline_at = instant
        self._watch.notice(instant)

    def rest(self) -> None:
        self.deadline_at = NEVER

    def expire(self) -> None:
        self.abandon(BackendTimeout("the time is over"))

    def abandon(self, error: EngineBayError) -> None:
        """Only for the time between `at` and `rest`: elsewhere the task does something else."""
        if self.deadline_at == NEVER or self.error is not None:
            return
        self.deadline_at = NEVER
        self.error = error
        self._task.cancel()

    def was_all(self) -> bool:
        """Take our cancellation back; False where there is another one, which has to go on."""
        return self.error is not None and self._task.uncancel() <= self._num_cancels

    def close(self) -> None:
        self._watch.discard(self)


async def within(timeout_s: float, waits: Awaitable[T], *, who: str, clock: Clock, watch: DeadlineWatch) -> T:
    """Raises BackendTimeout of replica `who`."""
    expiry = Expiry(watch)
    expiry.at(clock.now() + timeout_s)
    try:
        return await waits
    except asyncio.CancelledError:
        if not expiry.was_all():
            raise
        raise BackendTimeout(f"no answer within {timeout_s:g} s", backend=who) from None
    finally:
        expiry.rest()
        expiry.close()


class TimedStream:
    """A stream of a replica that raises BackendTimeout in time. One task consumes and closes it."""

    __slots__ = ("_clock", "_expiry", "_is_started", "_is_streamed", "_limits", "_name", "_stream", "_total_at")

    def __init__(
        self,
        stream: AsyncGenerator[GenerationChunk, None],
        limits: Timeouts,
        *,
        replica: str,
        watch: DeadlineWatch,
        clock: Clock,
        total_at: float,
        is_streamed: bool,
    ) -> None:
        self._stream, self._limits, self._clock = stream, limits, clock
        self._name, self._total_at, self._is_streamed = replica, total_at, is_streamed
        self._is_started = False
        self._expiry = Expiry(watch)

    def __aiter__(self) -> TimedStream:
        return self

    async def __anext__(self) -> GenerationChunk:
        expiry = self._expiry
        expiry.at(self._wait_ends_at())
        try:
            chunk = await self._stream.__anext__()
        except asyncio.CancelledError:
            if expiry.was_all():
                raise self._error() from None
            raise
        except EngineBayError:
            expiry.was_all()  # an adapter may answer our cancellation with an error of its own
            raise
        expiry.rest()
        if expiry.error is not None:  # an adapter that swallows cancellations: what it says is dropped
            expiry.was_all()
            raise self._error()
        self._is_started = self._is_started or bool(chunk.num_tokens or chunk.token_ids or chunk.text)
        return chunk

    def has_run_out(self) -> bool:
        """Whether the time of the whole request is over: it was long, or its reader slow, which is no fault of a
        replica that kept to the time between two tokens. One that is dead fails its canaries."""
        return self._clock.now() >= self._total_at

    def abandon(self, error: EngineBayError) -> None:
        """From elsewhere: what is waited for will not come."""
        self._expiry.abandon(error)

    async def aclose(self) -> None:
        """Never waits, as its stream doesn't."""
        self._expiry.close()
        await self._stream.aclose()

    def _wait_ends_at(self) -> float:
        if not self._is_streamed:
            return self._total_at
        limits = self._limits
        wait_s = limits.between_tokens_s if self._is_started else limits.first_token_s
        return min(self._clock.now() + wait_s, self._total_at)

    def _error(self) -> EngineBayError:
        error = self._expiry.error
        if error is not None and not isinstance(error, BackendTimeout):
            return error
        return BackendTimeout(f"replica {self._name!r} {self._what()}: try again later", backend=self._name)

    def _what(self) -> str:
        limits = self._limits
        if self.has_run_out():
            return f"was not through within {limits.total_s:g} s"
        if self._is_started:
            return f"sent nothing for {limits.between_tokens_s:g} s"
        return f"sent no token within {limits.first_token_s:g} s"
