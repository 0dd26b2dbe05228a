"""The reference engine in its own process, seen from the event loop, which never computes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from enginebay.backends.reference.engine_messages import (
    Cancel,
    EngineReady,
    ResetPrefixCache,
    Start,
    Submit,
    decode_from_engine,
    decode_to_engine,
    encode,
)
from enginebay.backends.reference.engine_stream import EngineStream
from enginebay.backends.reference.process_environment import process_environment
from enginebay.backends.worker.process import WorkerProcess
from enginebay.clock import Clock
from enginebay.engine.request import EngineCounters, EngineRequest
from enginebay.engine.settings import EngineConfig
from enginebay.errors import NEW_BACKEND_NEEDED, BackendError, EngineDied, InvalidRequest, NotStarted, StartFailed
from enginebay.types import Health, HealthState

_WORKER = "enginebay.backends.reference.engine_loop:main"


class EngineProcess:
    """Single use: start, submit, close. All of it on one event loop, whose thread outlives the process.

    It owns the child; streams are handed to whoever submits and report back through `cancel` alone.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        name: str,
        clock: Clock,
        start_timeout_s: float = 300.0,
        stop_grace_s: float = 5.0,
        stalled_after_s: float = 30.0,
        python: str = sys.executable,
        environment: Mapping[str, str] | None = None,
        log_file: Path | None = None,
    ) -> None:
        """stalled_after_s: with requests in flight and no step for so long, it is called degraded."""
        self._config, self._name, self._clock = config, name, clock
        self._start_timeout_s, self._stop_grace_s = start_timeout_s, stop_grace_s
        self._stalled_after_s = stalled_after_s
        self._worker = WorkerProcess(
            _WORKER,
            name=name,
            on_frame=self._on_frame,
            on_ended=self._on_ended,
            python=python,
            environment=process_environment(environment or {}),
            log_file=log_file,
        )
        self._ready: EngineReady | None = None
        self._settled = asyncio.Event()
        """It is ready, or has ended."""
        self._streams: dict[str, EngineStream] = {}
        self._counters = EngineCounters()
        self._num_discarded_tokens = 0
        self._progressed_at = clock.now()
        self._is_closed = False

    # ---------------------------------------------------------------- life

    async def start(self) -> None:
        """Returns when the weights are loaded. Raises StartFailed with the last log lines and a likely cause, and
        NotStarted when it is closed meanwhile.

        Cancelled or failed, it leaves no process behind.
        """
        try:
            await self._worker.launch()
            self._worker.send(encode(Start(self._config)))
            await self._wait_until_settled()
        except BaseException as error:
            self._worker.kill()
            if self._is_closed and isinstance(error, StartFailed):
                raise self._closed() from None
            raise
        if self._is_closed:
            await self._worker.stop(grace_s=0)
            raise self._closed()
        if self._ready is None:
            is_late = self._worker.is_alive
            what = f"was not ready within {self._start_timeout_s:g} s" if is_late else self._worker.how_it_ended()
            failed = self._worker.start_failed(f"the engine did not start: its process {what}")
            await self._worker.stop(grace_s=0)
            raise failed

    async def _wait_until_settled(self) -> None:
        """Until it is ready, or has ended, or time is up."""
        try:
            async with asyncio.timeout(self._start_timeout_s):
                await self._settled.wait()
        except TimeoutError:
            pass

    async def aclose(self) -> None:
        """Idempotent. Requests in flight fail; the process has been waited for when this returns."""
        self._is_closed = True
        self._fail_streams(self._closed)
        await self._worker.stop(grace_s=self._stop_grace_s)

    @property
    def ready(self) -> EngineReady:
        if self._ready is None:
            raise NotStarted("the engine has not been started", backend=self._name)
        return self._ready

    @property
    def pid(self) -> int | None:
        return self._worker.pid

    def health(self) -> Health:
        """From what is known here: never asks the engine, which may be in the middle of a long step."""
        if self._is_closed:
            return Health(HealthState.DEAD, "closed")
        if self._worker.returncode is not None:
            reason = f"the engine's process {self._worker.how_it_ended()}"
            return Health(HealthState.DEAD, reason, is_final=True)
        if self._ready is None:
            return Health(HealthState.LOADING, "the engine loads its weights")
        silent_s = self._clock.now() - self._progressed_at
        if self._streams and silent_s > self._stalled_after_s:
            return Health(HealthState.DEGRADED, f"no step for {silent_s:.0f} s with {len(self._streams)} requests")
        return Health(HealthState.READY)

    # ---------------------------------------------------------------- requests

    def reset_prefix_cache(self) -> None:
        """Raises EngineDied. Requests submitted after this find nothing that was computed before it."""
        if not self._worker.is_alive:
            raise self._died()
        self._worker.send(encode(ResetPrefixCache()))

    def submit(self, request: EngineRequest) -> EngineStream:
        """Hand a request over. Raises NotStarted, EngineDied, InvalidRequest or ContextTooLong at once."""
        limits = self.ready.limits
        if self._is_closed:
            raise self._closed()
        if not self._worker.is_alive:
            raise self._died()
        if request.request_id in self._streams:
            raise InvalidRequest(f"request id {request.request_id!r} is in use", field="request_id")
        frame = _checked_frame(request)
        limits.check(request)
        if not self._streams:
            self._progressed_at = self._clock.now()
        stream = EngineStream(request.request_id, name=self._name, on_cancel=self._cancel)
        self._streams[request.request_id] = stream
        self._worker.send(frame)
        return stream

    @property
    def counters(self) -> EngineCounters:
        """As of the newest message of the engine. Tokens that reached a cancelled stream count as discarded."""
        discarded = self._counters.num_discarded_tokens + self._num_discarded_tokens
        return msgspec.structs.replace(self._counters, num_discarded_tokens=discarded)

    def _cancel(self, stream: EngineStream) -> None:
        self._num_discarded_tokens += stream.num_unread_tokens
        if self._streams.pop(stream.request_id, None) is not None:
            self._worker.send(encode(Cancel(stream.request_id)))

    # ---------------------------------------------------------------- what the worker tells

    def _on_frame(self, frame: bytes) -> None:
        received_at = self._clock.now()
        self._progressed_at = received_at
        message = decode_from_engine(frame)
        if isinstance(message, EngineReady):
            self._ready = message
            self._settled.set()
            return
        self._counters = message.counters
        for output in message.outputs:
            stream = self._streams.get(output.request_id)
            if stream is None:
                self._num_discarded_tokens += len(output.token_ids)
                continue
            if output.finish_reason is not None:
                del self._streams[output.request_id]
            stream.push(output, received_at)

    def _on_ended(self) -> None:
        self._settled.set()
        if not self._is_closed:
            self._fail_streams(self._died)

    def _died(self) -> EngineDied:
        tail = "".join(f"\n  {line}" for line in self._worker.log_tail())
        return EngineDied(
            f"the engine died: its process {self._worker.how_it_ended()}; {NEW_BACKEND_NEEDED}"
            + (f"\nlast lines of the engine:{tail}" if tail else ""),
            backend=self._name,
        )

    def _closed(self) -> NotStarted:
        return NotStarted("the engine was closed", backend=self._name)

    def _fail_streams(self, make_error: Callable[[], BackendError]) -> None:
        """Each gets an error of its own: a raised one carries the traceback of its stream."""
        streams, self._streams = self._streams, {}
        for stream in streams.values():
            stream.fail(make_error())


def _checked_frame(request: EngineRequest) -> bytes:
    """What the engine will decode, decoded here before: a struct takes values of any type. Raises InvalidRequest."""
    try:
        frame = encode(Submit(request))
        decode_to_engine(frame)
    except UnicodeEncodeError as error:
        field = "request_id" if error.object == request.request_id else "cache_salt"
        raise InvalidRequest(f"{field} is no valid Unicode: {error}", field=field) from error
    except (msgspec.MsgspecError, TypeError, OverflowError) as error:
        raise InvalidRequest(f"the request cannot be sent to the engine: {error}") from error
    return frame
