"""The child's side: one engine, one event loop, one task for each request.

def main(channel: ChildChannel) -> None:      # `enginebay_vllm.in_process:main`
    serve_engine(channel, VllmEngine)
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine
from contextlib import aclosing

from enginebay.backends.in_process.errors import error_frame
from enginebay.backends.in_process.foreign_engine import EngineFacts, ForeignEngine, ResetsEngineCache
from enginebay.backends.in_process.messages import (
    Answer,
    AskStats,
    Beat,
    Cancel,
    CountTokens,
    NotReady,
    Piece,
    Pieces,
    Ready,
    ResetCache,
    Start,
    Submit,
    ToEngine,
    decode_to_engine,
    encode,
    request_of,
)
from enginebay.backends.in_process.prompt_frames import prompt_of
from enginebay.backends.worker.channel import ChildChannel
from enginebay.errors import EngineBayError, StartFailed, UnsupportedFeature
from enginebay.types import EngineStats, Feature

BEAT_INTERVAL_S = 0.5


def serve_engine(channel: ChildChannel, make_engine: Callable[[], ForeignEngine]) -> None:
    """Return when the parent has closed the channel, or the start has failed.

    make_engine is called in the event loop, after the start message: heavy imports belong into `start`.
    """
    asyncio.run(_EngineServer(channel, make_engine).run())
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # an engine's threads must not keep the process; what it holds, `close` has given back


class _EngineServer:
    def __init__(self, channel: ChildChannel, make_engine: Callable[[], ForeignEngine]) -> None:
        self._channel = channel
        self._make_engine = make_engine
        self._inbox: asyncio.Queue[ToEngine | None] = asyncio.Queue()
        self._running: dict[int, asyncio.Task[None]] = {}
        self._pieces: list[Piece] = []
        """Of this turn of the loop."""

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name="read the channel", daemon=True).start()
        first = await self._inbox.get()
        if not isinstance(first, Start):
            return
        engine = self._make_engine()
        try:
            if await self._start(engine, first):
                await self._serve(engine)
        finally:
            await engine.close()

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread: frames arrive while the loop is busy, and the end of the channel is seen at once."""
        while not self._channel.is_closed:
            for frame in self._channel.receive(None):
                _put(loop, self._inbox, decode_to_engine(frame))
        _put(loop, self._inbox, None)

    # ---------------------------------------------------------------- start

    async def _start(self, engine: ForeignEngine, start: Start) -> bool:
        """Whether it is ready. Closing the channel cancels a start in progress."""
        starting = asyncio.create_task(engine.start(start.keywords), name="start the engine")
        ending = asyncio.create_task(self._inbox.get(), name="the end of the channel")
        await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            await _cancelled(starting)
            return False
        await _cancelled(ending)
        facts = _facts_or_error(starting)
        self._send(NotReady(error_frame(facts)) if isinstance(facts, EngineBayError) else Ready(facts))
        return isinstance(facts, EngineFacts)

    # ---------------------------------------------------------------- requests

    async def _serve(self, engine: ForeignEngine) -> None:
        beating = asyncio.create_task(self._beat(engine), name="heartbeat")
        try:
            while (message := await self._inbox.get()) is not None:
                self._take(engine, message)
        finally:
            await _cancelled(beating, *self._running.values())

    def _take(self, engine: ForeignEngine, message: ToEngine) -> None:
        match message:
            case Submit(number=number):
                self._run(number, self._stream(engine, message))
            case Cancel(number=number):
                if (task := self._running.get(number)) is not None:
                    task.cancel()
            case CountTokens(number=number):
                self._run(number, self._count(engine, message))
            case ResetCache(number=number):
                self._run(number, self._reset(engine, number))
            case AskStats(number=number):
                self._send(_stats_answer(engine, number))
            case Start():
                raise AssertionError("a second start")

    def _run(self, number: int, work: Coroutine[None, None, None]) -> None:
        task = self._running[number] = asyncio.create_task(work, name=f"request {number}")
        task.add_done_callback(lambda _: self._running.pop(number, None))

    async def _stream(self, engine: ForeignEngine, submit: Submit) -> None:
        number = submit.number
        is_last = False
        try:
            async with aclosing(engine.generate(request_of(submit))) as chunks:
                async for chunk in chunks:
                    self._emit(Piece(number, chunk))
                    is_last = chunk.finish_reason is not None
        except Exception as error:  # noqa: BLE001 - it crosses to the parent as a typed one
            self._emit(Piece(number, error=error_frame(error)))
            return
        if not is_last:
            self._emit(Piece(number))

    def _emit(self, piece: Piece) -> None:
        """What one step of the engine gives to all requests goes as one frame."""
        if not self._pieces:
            asyncio.get_running_loop().call_soon(self._flush)
        self._pieces.append(piece)

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        self._send(Pieces(pieces))

    # ---------------------------------------------------------------- questions

    async def _count(self, engine: ForeignEngine, question: CountTokens) -> None:
        try:
            answer = Answer(question.number, token_ids=await engine.count_tokens(prompt_of(question.prompt)))
        except Exception as error:  # noqa: BLE001 - it crosses to the parent as a typed one
            answer = Answer(question.number, error=error_frame(error))
        self._send(answer)

    async def _reset(self, engine: ForeignEngine, number: int) -> None:
        try:
            if not isinstance(engine, ResetsEngineCache):
                raise UnsupportedFeature(field=Feature.RESET_PREFIX_CACHE.value, backend=type(engine).__name__)
            await engine.reset_prefix_cache()
            answer = Answer(number)
        except Exception as error:  # noqa: BLE001 - it crosses to the parent as a typed one
            answer = Answer(number, error=error_frame(error))
        self._send(answer)

    async def _beat(self, engine: ForeignEngine) -> None:
        while True:
            self._send(Beat(_stats_or_none(engine)))
            await asyncio.sleep(BEAT_INTERVAL_S)

    def _send(self, message: object) -> None:
        self._channel.send(encode(message))


def _facts_or_error(starting: asyncio.Task[EngineFacts]) -> EngineFacts | EngineBayError:
    try:
        return starting.result()
    except EngineBayError as error:
        return error
    except ImportError as error:
        cause = f"the Python module {error.name} is not installed for {sys.executable}, or does not fit it"
        return StartFailed(f"the engine cannot be imported: {error}", likely_cause=cause)
    except Exception as error:  # noqa: BLE001 - it crosses to the parent as a typed one
        return StartFailed(f"the engine did not start: {type(error).__name__}: {error}")


def _stats_answer(engine: ForeignEngine, number: int) -> Answer:
    try:
        return Answer(number, stats=engine.stats())
    except EngineBayError as error:
        return Answer(number, error=error_frame(error))


def _stats_or_none(engine: ForeignEngine) -> EngineStats | None:
    """A beat is a sign of life even where the engine can't tell its figures just now."""
    try:
        return engine.stats()
    except EngineBayError:
        return None


async def _cancelled(*tasks: asyncio.Task[object] | asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _put(loop: asyncio.AbstractEventLoop, inbox: asyncio.Queue[ToEngine | None], message: ToEngine | None) -> None:
    try:
        loop.call_soon_threadsafe(inbox.put_nowait, message)
    except RuntimeError:
        pass  # the loop has ended before its reader
