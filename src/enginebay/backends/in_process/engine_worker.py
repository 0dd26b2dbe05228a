"""A foreign engine's process, seen from the parent's event loop: frames out, frames in, errors typed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path

from enginebay.backends.in_process.errors import rebuilt
from enginebay.backends.in_process.foreign_engine import EngineFacts
from enginebay.backends.in_process.interpreter import PackageFolder
from enginebay.backends.in_process.messages import (
    Answer,
    AskStats,
    Beat,
    Cancel,
    NotReady,
    Piece,
    Pieces,
    Ready,
    ResetCache,
    Start,
    count_frame,
    decode_from_engine,
    encode,
    submit_frame,
)
from enginebay.backends.in_process.stream import ChunkStream
from enginebay.backends.launch.environment import inherited_environment
from enginebay.backends.worker.process import Supervision, WorkerProcess
from enginebay.clock import Clock
from enginebay.errors import (
    NEW_BACKEND_NEEDED,
    BackendTimeout,
    EngineBayError,
    EngineDied,
    EngineStepFailed,
    NotStarted,
    StartFailed,
)
from enginebay.types import EngineStats, GenerationRequest, Health, HealthState, Prompt

_STATS_TIMEOUT_S = 1.0
"""After that the figures of the newest heartbeat do."""
_SILENT_AFTER_S = 30.0


class EngineWorker:
    """Single use: start, ask, close. All of it on one event loop, whose thread outlives the process."""

    def __init__(
        self,
        worker: str,
        *,
        name: str,
        clock: Clock,
        python: str,
        is_our_interpreter: bool,
        packages: Sequence[str],
        environment: Mapping[str, str],
        start_timeout_s: float,
        stop_grace_s: float,
        log_file: Path | None = None,
    ) -> None:
        self._name, self._clock, self._python = name, clock, python
        self._start_timeout_s, self._stop_grace_s = start_timeout_s, stop_grace_s
        self._folder = PackageFolder(packages)
        self._process = WorkerProcess(
            worker,
            name=name,
            on_frame=self._on_frame,
            on_ended=self._on_ended,
            python=python,
            environment={**environment, **self._folder.environment(is_our_interpreter=is_our_interpreter)},
            inherited=inherited_environment(os.environ),
            log_file=log_file,
            supervision=Supervision(grace_s=stop_grace_s, folder=self._folder.path),
        )
        self._numbers = count(1)
        self._settled = asyncio.Event()
        """It is ready, has said why not, or has ended."""
        self._facts: EngineFacts | None = None
        self._start_error: EngineBayError | None = None
        self._streams: dict[int, ChunkStream] = {}
        self._questions: dict[int, asyncio.Future[Answer]] = {}
        self._stats: EngineStats | None = None
        self._heard_at = clock.now()
        self._death = ""
        """Why the engine is gone though its process may still be there."""
        self._is_closed = False

    # ---------------------------------------------------------------- life

    async def start(self, keywords: Mapping[str, object]) -> EngineFacts:
        """Raises StartFailed or what the engine raised. Cancelled or failed, it leaves nothing behind."""
        try:
            await self._process.launch()
            self._process.send(encode(Start(dict(keywords))))
            await self._wait_until_settled()
            if self._facts is None:
                raise await self._start_failure()
            return self._facts
        except BaseException:
            self._process.kill()
            self._folder.remove()
            raise

    async def _wait_until_settled(self) -> None:
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._settled.wait()
        except TimeoutError:
            pass

    async def _start_failure(self) -> EngineBayError:
        if self._is_closed:
            return self._closed()
        is_late = self._start_error is None and self._process.is_alive
        await self._process.stop(grace_s=0 if is_late else self._stop_grace_s)  # its log is complete after that
        tail = self._process.log_tail()
        if isinstance(self._start_error, StartFailed):
            error = self._start_error
            return self._process.start_failed(str(error).partition("\n")[0], cause=error.likely_cause)
        if self._start_error is not None:
            return self._start_error
        if any("No module named 'msgspec'" in line for line in tail):
            cause = f"{self._python} lacks the package msgspec: {self._python} -m pip install msgspec"
            return StartFailed("the engine's process cannot run", backend=self._name, likely_cause=cause, log_tail=tail)
        what = f"was not ready within {self._start_timeout_s:g} s" if is_late else self._process.how_it_ended()
        return self._process.start_failed(f"the engine did not start: its process {what}")

    async def aclose(self) -> None:
        """Idempotent. Requests in flight fail; the process has been waited for when this returns."""
        self._is_closed = True
        self._settled.set()
        self._fail_all(self._closed)
        await self._process.stop(grace_s=self._stop_grace_s)
        self._folder.remove()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def health(self) -> Health:
        """From what is known here: never asks the engine."""
        if self._is_closed:
            return Health(HealthState.DEAD, "closed")
        if self._death or self._process.returncode is not None:
            return Health(HealthState.DEAD, self._how_it_died(), is_final=True)
        if self._facts is None:
            return Health(HealthState.LOADING, "the engine loads its weights")
        silent_s = self._clock.now() - self._heard_at
        if silent_s > _SILENT_AFTER_S:
            return Health(HealthState.DEGRADED, f"the engine has not been heard of for {silent_s:.0f} s")
        return Health(HealthState.READY)

    # ---------------------------------------------------------------- requests and questions

    def submit(self, request: GenerationRequest) -> tuple[int, ChunkStream]:
        """The number is for `cancel`, which is owed for a stream that is left before its end."""
        self._demand_alive()
        number = next(self._numbers)
        frame = submit_frame(number, request)
        stream = self._streams[number] = ChunkStream()
        self._process.send(frame)
        return number, stream

    def cancel(self, number: int) -> None:
        """Synchronous and idempotent; nothing is sent for a stream that has ended."""
        if self._streams.pop(number, None) is not None:
            self._process.send(encode(Cancel(number)))

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        number = next(self._numbers)
        answer = await self._answer(number, count_frame(number, prompt))
        return answer.token_ids or ()

    async def reset_prefix_cache(self) -> None:
        number = next(self._numbers)
        await self._answer(number, encode(ResetCache(number)))

    async def stats(self) -> EngineStats:
        """Fresh ones, or those of the newest heartbeat where the engine's loop is busy."""
        number = next(self._numbers)
        try:
            async with asyncio.timeout(_STATS_TIMEOUT_S):
                answer = await self._answer(number, encode(AskStats(number)))
        except TimeoutError:
            answer = None
        stats = answer.stats if answer is not None else self._stats
        if stats is None:
            raise BackendTimeout("the engine did not tell its figures: it is busy, ask again", backend=self._name)
        return stats

    async def _answer(self, number: int, frame: bytes) -> Answer:
        self._demand_alive()
        waiting = self._questions[number] = asyncio.get_running_loop().create_future()
        self._process.send(frame)
        try:
            return await waiting
        finally:
            if self._questions.pop(number, None) is not None:
                self._process.send(encode(Cancel(number)))

    def _demand_alive(self) -> None:
        if self._is_closed:
            raise self._closed()
        if self._facts is None:
            raise NotStarted("the engine has not been started", backend=self._name)
        if self._death or not self._process.is_alive:
            raise self._died()

    # ---------------------------------------------------------------- what the process tells

    def _on_frame(self, frame: bytes) -> None:
        self._heard_at = self._clock.now()
        match decode_from_engine(frame):
            case Pieces(pieces=pieces):
                for piece in pieces:
                    self._on_piece(piece)
            case Beat(stats=stats):
                self._stats = stats or self._stats
            case Answer() as answer:
                self._on_answer(answer)
            case Ready(facts=facts):
                self._facts = facts
                self._settled.set()
            case NotReady(error=error):
                self._start_error = rebuilt(error, backend=self._name)
                self._settled.set()

    def _on_piece(self, piece: Piece) -> None:
        stream = self._streams.get(piece.number)
        if stream is None:
            return  # cancelled meanwhile
        if piece.chunk is None:
            del self._streams[piece.number]
            stream.fail(self._error_of(piece))
            return
        if piece.chunk.finish_reason is not None:
            del self._streams[piece.number]
        stream.push(replace(piece.chunk, received_at=self._heard_at))

    def _error_of(self, piece: Piece) -> EngineBayError:
        if piece.error is None:
            return EngineStepFailed("the engine ended the stream without a last chunk", backend=self._name)
        error = rebuilt(piece.error, backend=self._name)
        if isinstance(error, EngineDied):
            self._death = str(error)
            self._process.kill()
        return error

    def _on_answer(self, answer: Answer) -> None:
        waiting = self._questions.pop(answer.number, None)
        if waiting is None or waiting.done():
            return
        if answer.error is not None:
            waiting.set_exception(rebuilt(answer.error, backend=self._name))
        else:
            waiting.set_result(answer)

    def _on_ended(self) -> None:
        self._settled.set()
        self._folder.remove()
        if not self._is_closed:
            self._fail_all(self._died)

    # ---------------------------------------------------------------- errors

    def _died(self) -> EngineDied:
        tail = "".join(f"\n  {line}" for line in self._process.log_tail())
        return EngineDied(
            f"the engine died: {self._how_it_died()}; {NEW_BACKEND_NEEDED}"
            + (f"\nlast lines of the engine:{tail}" if tail else ""),
            backend=self._name,
        )

    def _how_it_died(self) -> str:
        return self._death or f"its process {self._process.how_it_ended()}"

    def _closed(self) -> NotStarted:
        return NotStarted("the engine was closed", backend=self._name)

    def _fail_all(self, make_error: Callable[[], EngineBayError]) -> None:
        """Each gets an error of its own: a raised one carries the traceback of its stream."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(make_error())
        questions, self._questions = self._questions, {}
        for waiting in questions.values():
            if not waiting.done():
                waiting.set_exception(make_error())
