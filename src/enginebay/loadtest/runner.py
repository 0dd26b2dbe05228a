"""Replays requests against one backend and records what happened. The only code that runs while a load is measured.

Between the bytes and the record nothing is parsed, tokenised or computed: chunks are kept as they came and turned
into a record when their stream has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from enginebay.backend import Backend
from enginebay.clock import Clock
from enginebay.errors import BackendTimeout, EngineBayError
from enginebay.loadtest.plan import Load, PlannedRequest
from enginebay.loadtest.records import INTERRUPTED, Arrival, Record
from enginebay.types import GenerationChunk, GenerationRequest

Replay = tuple[PlannedRequest, GenerationRequest]


class Runner:
    """One run. `on_record` gets each record as its request ends, also when the run is cancelled."""

    def __init__(
        self,
        backend: Backend,
        *,
        clock: Clock,
        on_record: Callable[[Record], None],
        request_timeout_s: float | None = None,
        run_id: str = "run",
    ) -> None:
        self._backend = backend
        self._clock = clock
        self._on_record = on_record
        self._request_timeout_s = request_timeout_s
        self._run_id = run_id
        self.started_at = clock.now()
        """All instants of the records count from here."""
        self.num_in_flight = 0

    async def run(self, requests: Sequence[PlannedRequest], load: Load) -> None:
        """Return when every request was answered or failed. A cancelled run records what was on its way."""
        replays = [(planned, planned.to_request(f"{self._run_id}-{planned.index}")) for planned in requests]
        self.started_at = self._clock.now()
        if load.users is not None:
            await self._closed_loop(iter(replays), num_users=min(load.users, len(replays)))
        else:
            await self._open_loop(replays)

    async def _closed_loop(self, replays: Iterator[Replay], num_users: int) -> None:
        async def user() -> None:
            # The iterator is shared: whoever is free takes the next request.
            for replay in replays:
                await self._send(*replay, scheduled_at=self._clock.now())

        async with asyncio.TaskGroup() as users:
            for _ in range(num_users):
                users.create_task(user())

    async def _open_loop(self, replays: Sequence[Replay]) -> None:
        async with asyncio.TaskGroup() as requests:
            for planned, request in replays:
                # Absolute: a late request delays none of those behind it.
                scheduled_at = self.started_at + (planned.offset_s or 0.0)
                await self._clock.sleep_until(scheduled_at)
                requests.create_task(self._send(planned, request, scheduled_at=scheduled_at))

    async def _send(self, planned: PlannedRequest, request: GenerationRequest, *, scheduled_at: float) -> None:
        chunks: list[GenerationChunk] = []
        error: tuple[str, str] | None = None
        self.num_in_flight += 1
        sent_at = self._clock.now()
        try:
            await self._receive(request, chunks)
        except EngineBayError as failure:
            error = (type(failure).__name__, str(failure))
        except asyncio.CancelledError:
            error = (INTERRUPTED, "the load test was stopped")
            raise
        finally:
            self.num_in_flight -= 1
            self._on_record(
                make_record(
                    planned,
                    chunks,
                    zero=self.started_at,
                    scheduled_at=scheduled_at,
                    sent_at=sent_at,
                    ended_at=self._clock.now(),
                    error=error,
                )
            )

    async def _receive(self, request: GenerationRequest, chunks: list[GenerationChunk]) -> None:
        try:
            async with asyncio.timeout(self._request_timeout_s):
                async for chunk in self._backend.generate(request):
                    chunks.append(chunk)
        except TimeoutError as error:
            raise BackendTimeout(
                f"no complete answer within {self._request_timeout_s:g} s", backend=self._backend.info.name
            ) from error


def make_record(
    planned: PlannedRequest,
    chunks: Sequence[GenerationChunk],
    *,
    zero: float,
    scheduled_at: float,
    sent_at: float,
    ended_at: float,
    error: tuple[str, str] | None,
) -> Record:
    """All instants are given on the clock and stored from `zero` on."""
    arrivals, num_uncounted_chunks = _arrivals(chunks, zero)
    usage = next((chunk.usage for chunk in reversed(chunks) if chunk.usage is not None), None)
    last = chunks[-1] if chunks else None
    return Record(
        index=planned.index,
        scheduled_at=scheduled_at - zero,
        sent_at=sent_at - zero,
        ended_at=ended_at - zero,
        arrivals=arrivals,
        num_chunks=len(chunks),
        num_uncounted_chunks=num_uncounted_chunks,
        num_planned_prompt_tokens=planned.num_prompt_tokens,
        max_tokens=planned.sampling.max_tokens,
        num_prompt_tokens=usage.num_prompt_tokens if usage else None,
        num_output_tokens=usage.num_output_tokens if usage else None,
        num_cached_tokens=usage.num_cached_tokens if usage else None,
        num_discarded_tokens=usage.num_discarded_tokens if usage else None,
        text="".join(chunk.text for chunk in chunks),
        token_ids=_token_ids(chunks),
        finish_reason=last.finish_reason.value if last and last.finish_reason else None,
        stop_reason=last.stop_reason if last else None,
        error_class=error[0] if error else None,
        error_message=error[1] if error else None,
    )


def _arrivals(chunks: Sequence[GenerationChunk], zero: float) -> tuple[list[Arrival], int]:
    """Chunks with tokens, and the number of those whose tokens nobody counted."""
    arrivals: list[Arrival] = []
    num_known = num_uncounted_chunks = 0
    for chunk in chunks:
        num_tokens = _told_tokens(chunk)
        if num_tokens is None and chunk.usage is not None and num_uncounted_chunks == 0:
            # Everything before was counted, so what the cumulative usage adds arrived now.
            num_tokens = max(0, chunk.usage.num_output_tokens - num_known)
        if num_tokens is None:
            num_tokens = 1 if _has_content(chunk) else 0
            num_uncounted_chunks += num_tokens
        if num_tokens > 0:
            arrivals.append(Arrival(chunk.received_at - zero, num_tokens))
            num_known += num_tokens
    return arrivals, num_uncounted_chunks


def _told_tokens(chunk: GenerationChunk) -> int | None:
    if chunk.num_tokens is not None:
        return chunk.num_tokens
    return None if chunk.token_ids is None else len(chunk.token_ids)


def _token_ids(chunks: Sequence[GenerationChunk]) -> list[int] | None:
    if any(chunk.token_ids is None and chunk.text for chunk in chunks):
        return None
    return [token_id for chunk in chunks for token_id in chunk.token_ids or ()] or None


def _has_content(chunk: GenerationChunk) -> bool:
    """False for a role, a keep-alive, or a closing usage."""
    return bool(chunk.text or chunk.reasoning_text or chunk.tool_call_deltas)
