"""A simulator beside a test that has no event loop."""

from __future__ import annotations

import json
import threading
from urllib.request import urlopen

import pytest

from enginebay.errors import ConfigError
from enginebay.testing.simulators.thread import SimulatorThread


def test_it_serves_until_it_is_closed_and_leaves_no_thread() -> None:
    before = threading.active_count()
    server = SimulatorThread("vllm", "some/model")
    try:
        with urlopen(f"{server.url}/v1/models") as answer:
            assert json.load(answer)["data"][0]["id"] == "some/model"
        server.call(server.simulator.kill_engine)
        assert server.simulator.engine.death_reason == "the engine died"
        with pytest.raises(ZeroDivisionError):
            server.call(lambda: 1 // 0)
    finally:
        server.close()
    assert threading.active_count() == before


def test_a_command_line_that_is_refused_is_raised_where_it_was_made() -> None:
    before = threading.active_count()
    with pytest.raises(ConfigError, match="--num-shard"):
        SimulatorThread("vllm", "m", "--num-shard", "2")
    assert threading.active_count() == before
