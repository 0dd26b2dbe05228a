"""The collector of a server that is up looks at new objects alone, and nobody lists its generators."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncGenerator, Iterator

import pytest

from enginebay.event_loop import new_event_loop
from enginebay.gateway.garbage import rarely_collected
from enginebay.gateway.generators import unlisted_generators


@pytest.fixture
def collector() -> Iterator[None]:
    thresholds = gc.get_threshold()
    yield
    gc.unfreeze()
    gc.set_threshold(*thresholds)


@pytest.mark.usefixtures("collector")
def test_what_was_there_is_never_walked_again_and_new_objects_seldom() -> None:
    before = gc.get_threshold()
    num_tracked = len(gc.get_objects())
    rarely_collected()
    assert gc.get_freeze_count() > 0.9 * num_tracked
    assert len(gc.get_objects()) < 0.1 * num_tracked
    assert gc.get_threshold()[0] >= 50 * before[0]
    assert gc.isenabled()


def test_a_generator_that_nobody_closed_is_still_closed_when_it_is_forgotten() -> None:
    async def main() -> bool:
        unlisted_generators()
        closed = asyncio.Event()

        async def generator() -> AsyncGenerator[int, None]:
            try:
                yield 1
            finally:
                await asyncio.sleep(0)
                closed.set()

        forgotten = generator()
        await anext(forgotten)
        del forgotten
        gc.collect()
        return await closed.wait()

    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        assert runner.run(asyncio.wait_for(main(), 5))
