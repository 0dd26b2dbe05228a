"""Nothing made up passes for real: what a simulated backend answers says so."""

import asyncio

from running_server import RunningServer

from enginebay.testing import FakeBackend


class FakeThatMayStart(FakeBackend):
    def __init__(self) -> None:
        super().__init__()
        self.may_start = asyncio.Event()
        self.may_start.set()


def test_every_answer_of_a_simulated_backend_says_so_and_no_other_does(server: RunningServer) -> None:
    body = b'{"prompt": "a", "max_tokens": 2, "stream": true}'
    with RunningServer(FakeThatMayStart) as fake:
        for method, path, data in (
            ("POST", "/v1/completions", body),
            ("GET", "/health", b""),
            ("GET", "/nowhere", b""),
        ):
            assert fake.exchange(method, path, data)[1]["x-enginebay-simulated"] == "1"
            assert "x-enginebay-simulated" not in server.exchange(method, path, data)[1]
        assert b"enginebay_simulated 1.0" in fake.exchange("GET", "/metrics")[2]
    assert b"enginebay_simulated" not in server.exchange("GET", "/metrics")[2]
