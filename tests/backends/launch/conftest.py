from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import psutil
import pytest
import uvloop
from launch_fakes import Run


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run to the end on both event loops, and see that no task and no process is left."""

    def run_and_look_for_leftovers(main: Awaitable[None]) -> None:
        children = psutil.Process().children()

        async def whole() -> None:
            await main
            assert asyncio.all_tasks() == {asyncio.current_task()}

        factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(whole())
        assert psutil.Process().children() == children

    return run_and_look_for_leftovers
