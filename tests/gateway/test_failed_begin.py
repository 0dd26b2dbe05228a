"""A part of the server that cannot begin: what had begun ends, and whoever runs the server is told why."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

import pytest
from fake_kind import FakeKind, install_fake_kind

from enginebay.config.loader import parse_config
from enginebay.errors import StartFailed
from enginebay.gateway.app import Gateway
from enginebay.gateway.assembly.assembly import Assembly
from enginebay.gateway.logs import make_logger
from enginebay.testing.fake_clock import FakeClock

ONE_MODEL = """
version: 1
backends: {one: {kind: fake, replicas: 2}}
gateway: {models: {m: {versions: {v1: [{backend: one}]}}}}
"""


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> FakeKind:
    return install_fake_kind(monkeypatch)


class Told:
    """A part that writes down what it was asked."""

    def __init__(self, error: Exception | None = None) -> None:
        self._error = error
        self.heard: list[str] = []

    async def begin(self) -> None:
        self.heard.append("begin")
        if self._error is not None:
            raise self._error

    async def end(self) -> None:
        self.heard.append("end")


def test_what_had_begun_ends_and_the_reason_is_kept(kind: FakeKind) -> None:
    error = StartFailed("no room for the journal")
    good, bad, never = Told(), Told(error), Told()

    async def main() -> list[MutableMapping[str, Any]]:
        assembly = Assembly(parse_config(ONE_MODEL), log=make_logger(level="critical"), clock=FakeClock())
        app = Gateway(assembly.served, assembly.open_requests, [good, bad, never])
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            return {"type": "lifespan.startup"}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        await app({"type": "lifespan"}, receive, send)
        assert app.start_failure is error
        assert asyncio.all_tasks() == {asyncio.current_task()}
        return sent

    assert asyncio.run(main()) == [{"type": "lifespan.startup.failed", "message": "no room for the journal"}]
    assert (good.heard, bad.heard, never.heard) == (["begin", "end"], ["begin"], [])
    assert all(backend.num_live_streams == 0 for backend in kind.backends["one"])
