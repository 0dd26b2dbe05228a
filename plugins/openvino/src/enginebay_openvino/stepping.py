"""Drives the pipeline: one step after the other while there are requests, on the event loop of the worker.

Not in a thread: `step` holds the interpreter's lock from its begin to its end, so a thread would only make every
other line of this process wait for the lock instead of for its turn.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from enginebay.errors import EngineBayError, EngineStepFailed

_TURNS = 3
"""Of the loop between two steps: the requests' tasks take what the step gave, that is sent to the parent, and what the
parent has sent is looked at."""
_MOST_CLOSING_STEPS = 4
"""Steps after the last request until the pipeline's own figures know that it is gone."""


@dataclass(slots=True, eq=False)
class _Live:
    input_ids: Any
    config: Any
    arrived_at: float
    on_admitted: Callable[[float], None]
    handle: Any = None
    """None while it waits for its place."""
    outputs: asyncio.Queue[Any] = field(default_factory=asyncio.Queue[Any])
    """GenerationOutput, or the EngineBayError that ends it."""


class Stepper:
    """Keeps at most max_num_seqs requests in the pipeline, first come, first served: its own scheduler minds that limit
    only without `dynamic_split_fuse`."""

    def __init__(self, pipeline: Any, *, max_num_seqs: int) -> None:
        self._pipeline, self._max_num_seqs = pipeline, max_num_seqs
        self._waiting: deque[_Live] = deque()
        self._live: set[_Live] = set()
        self._next_number = 0
        self._task: asyncio.Task[None] | None = None

    async def outputs(
        self, input_ids: Any, config: Any, *, on_admitted: Callable[[float], None]
    ) -> AsyncGenerator[Any, None]:
        """Of one request, as long as it lives. Left early, the request is cancelled and its place is free.

        on_admitted is told how long it waited for its place, in seconds.
        """
        live = _Live(input_ids, config, time.monotonic(), on_admitted)
        self._waiting.append(live)
        self._wake()
        try:
            while True:
                output = await live.outputs.get()
                if isinstance(output, EngineBayError):
                    raise output
                yield output
        finally:
            self._forget(live)

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        if self._pipeline.get_metrics().requests:
            self._step()  # gives back the blocks of requests that were cancelled; else the engine calls them leaked

    def _forget(self, live: _Live) -> None:
        if live in self._waiting:
            self._waiting.remove(live)
        elif live in self._live:
            self._live.remove(live)
            live.handle.cancel()
            self._wake()

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="step the pipeline")

    async def _run(self) -> None:
        num_closing_steps = 0
        while self._live or self._waiting or (num_closing_steps < _MOST_CLOSING_STEPS and self._has_figures_to_clear()):
            self._admit()
            num_closing_steps = 0 if self._live else num_closing_steps + 1
            self._step()
            for _ in range(_TURNS):
                await asyncio.sleep(0)

    def _has_figures_to_clear(self) -> bool:
        return self._pipeline.get_metrics().requests > 0

    def _admit(self) -> None:
        while self._waiting and len(self._live) < self._max_num_seqs:
            live = self._waiting.popleft()
            self._next_number += 1
            try:
                live.handle = self._pipeline.add_request(self._next_number, live.input_ids, live.config)
            except RuntimeError as error:
                live.outputs.put_nowait(_failed("the engine does not take the request", error))
                continue
            live.on_admitted(time.monotonic() - live.arrived_at)
            self._live.add(live)

    def _step(self) -> None:
        try:
            self._pipeline.step()
        except RuntimeError as error:
            self._fail_all(error)
            return
        for live in [*self._live]:
            self._deliver(live)

    def _deliver(self, live: _Live) -> None:
        while live.handle.can_read():
            for output in live.handle.read().values():
                live.outputs.put_nowait(output)
        status = live.handle.get_status().name
        if status == "RUNNING":
            return
        self._live.remove(live)
        if status != "FINISHED":
            live.outputs.put_nowait(_ended_early(status))

    def _fail_all(self, error: RuntimeError) -> None:
        """Whose fault it was is not told: all that were in the step end, those that come next find a clean pipeline."""
        for live in [*self._live]:
            live.outputs.put_nowait(_failed("a step of the engine failed", error))
            self._live.remove(live)
            live.handle.cancel()


def _failed(what: str, error: RuntimeError) -> EngineStepFailed:
    failed = EngineStepFailed(f"{what}: {first_line(error)}")
    failed.__cause__ = error
    return failed


def _ended_early(status: str) -> EngineStepFailed:
    if status == "IGNORED":
        return EngineStepFailed(
            "the request alone is more than the KV cache holds: shorten it, or raise options.cache_size_gb (0 lets the "
            "cache grow)"
        )
    return EngineStepFailed(f"the engine ended the request with status {status}")


def first_line(error: RuntimeError) -> str:
    """Of an exception of OpenVINO: what it says is behind the places of its source."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith(("Check '", "Exception from"))]
    return (told or lines or ["no reason given"])[0]
