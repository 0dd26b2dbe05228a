"""The collector of a server that is up looks at new objects alone."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from enginebay.gateway.garbage import rarely_collected


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
