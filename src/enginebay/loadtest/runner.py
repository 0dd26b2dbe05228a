"""Replays requests against one backend and records what happened. The only code that runs while a load is measured.

Requests are encoded before the first one is sent. The answer of an engine behind HTTP is kept as bytes with their
instants and decoded in the pauses, or when nothing is measured any more (`backlog`). A request whose turn has come is
always sent: where users or connections have run out it waits, and its record tells how long.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from enginebay.backend import Backend
from enginebay.backends.http_engine.kept_answer import KeptAnswer
from enginebay.clock import Clock
from enginebay.errors import BackendTimeout, EngineBayError, LoadTestError
from enginebay.guard import GuardedBackend
from enginebay.loadtest.arrival_timer import SleepUntil, arrival_timer
from enginebay.loadtest.backlog import Backlog, Outcome
from enginebay.loadtest.plan import Load, PlannedRequest
from enginebay.loadtest.records import INTERRUPTED, Record
from enginebay.loadtest.sent.log import TellsSends, request_id_of
from enginebay.request_checks import check_request
from enginebay.types import GenerationChunk, GenerationRequest

NOT_IN_IDS = re.compile(r"[^\w.-]+", re.ASCII)
"""Ids travel in a header, which has room for little; names of backends and traces may be in any script."""


@runtime_checkable
class KeepsAnswers(Protocol):
    def keep_answer(self, request: GenerationRequest, *, timeout_s: float | None) -> KeptAnswer: ...


@dataclass(slots=True)
class Turn:
    """A request that is ready to be sent."""

    planned: PlannedRequest
    request_id: str
    answer: KeptAnswer | AsyncGenerator[GenerationChunk, None] | EngineBayError
    """Not begun, the request encoded; or why the backend refuses it."""
    following: Turn | None = None
    """The next turn of the conversation."""


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
        self._inner = backend.inner if isinstance(backend, GuardedBackend) else backend
        self._clock = clock
        self._backlog = Backlog(clock=clock, on_record=on_record)
        self._request_timeout_s = request_timeout_s
        self._run_id = NOT_IN_IDS.sub("-", run_id)
        self._given_to_socket_at: dict[bytes, float] = {}
        self._conversations: list[Turn] = []
        self.started_at = clock.now()
        """All instants of the records count from here."""
        self.num_in_flight = 0

    async def run(self, requests: Sequence[PlannedRequest], load: Load) -> None:
        """Return when every request was answered or failed. A cancelled run records what was on its way."""
        self.prepare(requests)
        try:
            await self.replay(load, started_at=self._clock.now())
        finally:
            self.finish()

    def prepare(self, requests: Sequence[PlannedRequest]) -> None:
        """All that can be done before the first request is due. Takes long for a long plan."""
        turns: dict[int, Turn] = {}
        for planned in requests:
            turns[planned.index] = turn = self._turn(planned)
            if planned.after is None:
                self._conversations.append(turn)
                continue
            before = turns.get(planned.after)
            if before is None or before.following is not None:
                raise LoadTestError(f"request {planned.index} does not follow a turn before it that no other follows")
            before.following = turn

    async def replay(self, load: Load, *, started_at: float) -> None:
        """What was prepared, from that instant on. Records that are not there yet come with `finish`."""
        self.started_at = self._backlog.zero = started_at
        conversations, self._conversations = self._conversations, []
        working_off = asyncio.create_task(self._backlog.work_off(), name="decoding of the load test")
        try:
            with self._listening():
                await self._clock.sleep_until(started_at)
                if load.users is not None:
                    await self._closed_loop(conversations, num_users=min(load.users, len(conversations)))
                else:
                    await self._open_loop(conversations)
        finally:
            working_off.cancel()

    def finish(self) -> None:
        """The records of all answers that are still bytes."""
        self._backlog.finish()

    async def finish_in_turns(self) -> None:
        """The same, and the loop goes round meanwhile."""
        await self._backlog.finish_in_turns()

    def _turn(self, planned: PlannedRequest) -> Turn:
        request = planned.to_request(f"{self._run_id}-{planned.index}")
        try:
            return Turn(planned, request.request_id, self._answer_to(request))
        except EngineBayError as refusal:
            return Turn(planned, request.request_id, refusal)

    def _answer_to(self, request: GenerationRequest) -> KeptAnswer | AsyncGenerator[GenerationChunk, None]:
        if isinstance(self._inner, KeepsAnswers):
            check_request(request, self._inner.info)
            return self._inner.keep_answer(request, timeout_s=self._request_timeout_s)
        # The protocol: this validates, and does no work before the first chunk is asked for.
        return self._backend.generate(request)

    async def _closed_loop(self, conversations: Sequence[Turn], *, num_users: int) -> None:
        # Shared: whoever is free takes the next conversation.
        left = iter(conversations)

        async def user() -> None:
            for first in left:
                await self._converse(first, scheduled_at=self._clock.now())

        async with asyncio.TaskGroup() as users:
            for _ in range(num_users):
                users.create_task(user())

    async def _open_loop(self, conversations: Sequence[Turn]) -> None:
        with arrival_timer(self._clock) as sleep_until:
            await self._send_on_time(conversations, sleep_until)

    async def _send_on_time(self, conversations: Sequence[Turn], sleep_until: SleepUntil) -> None:
        async with asyncio.TaskGroup() as under_way:
            for first in conversations:
                # Absolute: a late request delays none of those behind it.
                scheduled_at = self.started_at + (first.planned.offset_s or 0.0)
                await sleep_until(scheduled_at)
                under_way.create_task(self._converse(first, scheduled_at=scheduled_at))

    async def _converse(self, first: Turn, *, scheduled_at: float) -> None:
        await self._send(first, scheduled_at=scheduled_at)
        turn = first
        while (turn := turn.following) is not None:
            scheduled_at = self._clock.now() + turn.planned.think_time_s
            await self._clock.sleep_until(scheduled_at)
            await self._send(turn, scheduled_at=scheduled_at)

    async def _send(self, turn: Turn, *, scheduled_at: float) -> None:
        chunks: list[GenerationChunk] = []
        error: tuple[str, str] | None = None
        self.num_in_flight += 1
        asked_at = self._clock.now()
        try:
            await self._receive(turn.answer, chunks)
        except EngineBayError as failure:
            error = (type(failure).__name__, str(failure))
        except asyncio.CancelledError:
            error = (INTERRUPTED, "the load test was stopped")
            raise
        finally:
            self.num_in_flight -= 1
            self._backlog.add(
                Outcome(
                    planned=turn.planned,
                    scheduled_at=scheduled_at,
                    # Later than it was asked for where it had to wait for a connection.
                    sent_at=self._given_to_socket_at.pop(turn.request_id.encode(), asked_at),
                    ended_at=self._clock.now(),
                    error=error,
                    answer=turn.answer if isinstance(turn.answer, KeptAnswer) else chunks,
                )
            )

    async def _receive(
        self,
        answer: KeptAnswer | AsyncGenerator[GenerationChunk, None] | EngineBayError,
        chunks: list[GenerationChunk],
    ) -> None:
        if isinstance(answer, KeptAnswer):
            with self._backlog.watching(answer):
                await answer.exchange()
        elif isinstance(answer, EngineBayError):
            raise answer
        else:
            await self._read(answer, chunks)

    async def _read(self, stream: AsyncGenerator[GenerationChunk, None], chunks: list[GenerationChunk]) -> None:
        try:
            async with asyncio.timeout(self._request_timeout_s):
                async for chunk in stream:
                    chunks.append(chunk)
        except TimeoutError as error:
            raise BackendTimeout(
                f"no complete answer within {self._request_timeout_s:g} s", backend=self._backend.info.name
            ) from error

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """To when each request is given to its socket, where the backend tells."""
        inner = self._inner
        if not isinstance(inner, TellsSends):
            yield
            return
        inner.add_send_listener(self._note_send)
        try:
            yield
        finally:
            inner.remove_send_listener(self._note_send)

    def _note_send(self, sent_at: float, head: bytes, body: bytes) -> None:
        if request_id := request_id_of(head):
            self._given_to_socket_at.setdefault(request_id, sent_at)
