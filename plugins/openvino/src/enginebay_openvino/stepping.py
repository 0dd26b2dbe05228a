"""Drives the pipeline: one step after the other while there are requests, on the event loop of the worker.

Not in a thread: `step` holds the interpreter's lock from its begin to its end, so a thread would only make every
other line of this process wait for the lock instead of for its turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
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
    handle: Any
    outputs: asyncio.Queue[Any] = field(default_factory=asyncio.Queue[Any])
    """GenerationOutput, or the EngineBayError that ends it."""


class Stepper:
    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._live: set[_Live] = set()
        self._next_number = 0
        self._task: asyncio.Task[None] | None = None

    async def outputs(self, input_ids: Any, config: Any) -> AsyncGenerator[Any, None]:
        """Of one request, as long as it lives. Left early, the request is cancelled and its place is free."""
        self._next_number += 1
        live = _Live(self._pipeline.add_request(self._next_number, input_ids, config))
        self._live.add(live)
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

    def _forget(self, live: _Live) -> None:
        if live in self._live:
            self._live.remove(live)
            live.handle.cancel()
            self._wake()

    def _wake(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="step the pipeline")

    async def _run(self) -> None:
        num_closing_steps = 0
        while self._live or (num_closing_steps < _MOST_CLOSING_STEPS and self._pipeline.get_metrics().requests):
            num_closing_steps = 0 if self._live else num_closing_steps + 1
            self._step()
            for _ in range(_TURNS):
                await asyncio.sleep(0)

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
            failed = EngineStepFailed(f"a step of the engine failed: {first_line(error)}")
            failed.__cause__ = error
            live.outputs.put_nowait(failed)
            self._live.remove(live)
            live.handle.cancel()


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
