"""Ctrl-C and SIGTERM end a load test early; what was measured until then is kept."""

from __future__ import annotations

import asyncio
import signal
from typing import Protocol

from enginebay.cli.event_loop import new_event_loop
from enginebay.errors import EngineBayError

TERMINATED = 128 + signal.SIGTERM


class Interruptible(Protocol):
    """A load test of any kind."""

    @property
    def is_saved(self) -> bool:
        """Whether there is a result to report, also after `run` was cut short."""
        ...

    async def run(self) -> object: ...


def run_until_interrupted(measurement: Interruptible) -> BaseException | None:
    """What ended it early, if it left a result to report; raises what left none."""
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(_run_until_terminated(measurement))
    except (KeyboardInterrupt, EngineBayError) as error:
        if not measurement.is_saved:
            raise
        return error


async def _run_until_terminated(measurement: Interruptible) -> SystemExit | None:
    """SIGTERM ends it as Ctrl-C does: what was measured is kept."""
    running = asyncio.ensure_future(measurement.run())
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling() or not measurement.is_saved:
            raise  # Ctrl-C, which the runner turns into its own error
        return SystemExit(TERMINATED)
    return None
