"""Answers that have ended and wait to be made records: decoded in the pauses of a run, the rest when it is over.

Decoding costs several times what sending and receiving do. Were it done at once, an answer that ends would hold up
the stamps of all the others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from enginebay.backends.http_engine.kept_answer import KeptAnswer
from enginebay.clock import Clock
from enginebay.errors import EngineBayError
from enginebay.loadtest.plan import PlannedRequest
from enginebay.loadtest.recording import make_record
from enginebay.loadtest.records import Record
from enginebay.types import GenerationChunk

SLICE_S = 0.0005
INTERVAL_S = 0.01
"""About SLICE_S of every INTERVAL_S goes into decoding: no stamp is later for it by much more than that."""
TURN_S = 0.05
"""When nothing is measured any more."""
MAX_KEPT_BYTES = 256 * 1024 * 1024
"""Beyond it, answers are decoded as they end: memory is bounded, whatever the load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Of one request that has been answered or has failed."""

    planned: PlannedRequest
    scheduled_at: float
    sent_at: float
    ended_at: float
    error: tuple[str, str] | None
    """Its class and its message, where it is known already."""
    answer: KeptAnswer | list[GenerationChunk]


class Backlog:
    def __init__(self, *, clock: Clock, on_record: Callable[[Record], None]) -> None:
        self._clock, self._on_record = clock, on_record
        self._waiting: deque[_Decoding] = deque()
        self._num_bytes = 0
        self._under_way: dict[KeptAnswer, None] = {}
        """In the order in which they are looked at."""
        self.zero = 0.0
        """The instant on the clock that records count from."""

    @contextmanager
    def watching(self, answer: KeptAnswer) -> Iterator[None]:
        """While it is under way: what is malformed in its middle ends it, and not its time-out."""
        self._under_way[answer] = None
        try:
            yield
        finally:
            del self._under_way[answer]

    def add(self, outcome: Outcome) -> None:
        decoding = _Decoding(outcome)
        self._waiting.append(decoding)
        self._num_bytes += decoding.num_bytes
        if len(self._waiting) == 1 and not decoding.num_bytes:
            self._finish_first()  # it has its chunks already
        while self._num_bytes > MAX_KEPT_BYTES:
            self._finish_first()

    async def work_off(self) -> None:
        """In slices, until cancelled."""
        while True:
            await self._clock.sleep_until(self._clock.now() + INTERVAL_S)
            ends_at = self._clock.now() + SLICE_S
            self._look(until=ends_at - SLICE_S / 2)  # and at least half of the slice is for those that have ended
            while self._waiting and self._clock.now() < ends_at:
                if not self._waiting[0].step():
                    self._finish_first()

    def _look(self, *, until: float) -> None:
        for answer in list(self._under_way):
            if self._clock.now() >= until:
                return
            del self._under_way[answer]
            self._under_way[answer] = None  # the next time the others come first
            while answer.look() and self._clock.now() < until:
                pass

    def finish(self) -> None:
        """All of it; takes as long as it takes."""
        while self._waiting:
            self._finish_first()

    async def finish_in_turns(self) -> None:
        """The same, and the loop goes round meanwhile."""
        while self._waiting:
            ends_at = self._clock.now() + TURN_S
            while self._waiting and self._clock.now() < ends_at:
                self._finish_first()
            await asyncio.sleep(0)

    def _finish_first(self) -> None:
        decoding = self._waiting.popleft()
        self._num_bytes -= decoding.num_bytes
        while decoding.step():
            pass
        self._on_record(decoding.record(self.zero))


class _Decoding:
    """One outcome on its way to a record."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome, self._error = outcome, outcome.error
        self._chunks: list[GenerationChunk] = []
        self._steps: Iterator[None] = iter(())
        self.num_bytes = 0
        if isinstance(outcome.answer, KeptAnswer):
            self._steps, self.num_bytes = outcome.answer.decode(self._chunks), outcome.answer.num_bytes
        else:
            self._chunks = outcome.answer

    def step(self) -> bool:
        """Decode one piece more; False when there is none left."""
        try:
            next(self._steps)
        except StopIteration:
            return False
        except EngineBayError as error:
            self._error = self._error or (type(error).__name__, str(error))
            return False
        return True

    def record(self, zero: float) -> Record:
        outcome = self._outcome
        return make_record(
            outcome.planned,
            self._chunks,
            zero=zero,
            scheduled_at=outcome.scheduled_at,
            sent_at=outcome.sent_at,
            ended_at=outcome.ended_at,
            error=self._error,
        )
