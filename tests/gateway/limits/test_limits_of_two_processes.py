"""Two gateway processes on one Redis: the benchmark's own bars, on less of everything."""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))

from gateway_limits import Limits, bars, run


@pytest.mark.redis
def test_nothing_is_exceeded_by_a_single_request_or_token_and_nothing_stays_held() -> None:
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed")
    limits = Limits(requests=300, tokens=3000, at_once=10, money=3)
    done = asyncio.run(run(num_clients=40, seconds=2.0, limits=limits))
    assert [words for words, holds in bars(done).items() if not holds] == []
