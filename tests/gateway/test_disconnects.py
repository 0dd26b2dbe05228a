"""A client that leaves takes its request out of the engine, whenever it leaves, and nothing of it stays counted."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from asgi_client import AsgiExchange, get, living, post, settle
from fake_kind import FakeKind, install_fake_kind
from running_server import RunningServer, http_request
from scripted_backend import ScriptedBackend

from enginebay.config.loader import parse_config
from enginebay.gateway.app import Gateway
from enginebay.gateway.database import open_database
from enginebay.gateway.from_config import app_from_config
from enginebay.gateway.ledger.tables import ledger
from enginebay.gateway.logs import make_logger
from enginebay.testing.fake_backend import Stall, say_tokens

FULL = """
version: 1
backends: {{left: {{kind: fake}}, right: {{kind: fake}}}}
gateway:
  models: {{m: {{versions: {{v1: [{{backend: left}}, {{backend: right}}]}}}}}}
  routing: {{policy: prefix_aware}}
  database: "sqlite:///{folder}/gateway.db"
  ledger: {{journal: "{folder}/journal"}}
  limits:
    address: {{requests_per_second: 1000, tokens_per_minute: 100000, concurrent_requests: 100}}
"""
COUNTS = (
    "enginebay_pool_inside", "enginebay_pool_waiting", "enginebay_limits_reserved", "llm_requests_in_flight",
)  # fmt: skip
ONE_CHUNK_BYTES = 65536


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> FakeKind:
    return install_fake_kind(monkeypatch)


def run(folder: Path, test: Callable[[Gateway], Awaitable[None]]) -> None:
    """In real time: a database answers in threads."""

    async def main() -> None:
        config = parse_config(FULL.format(folder=folder))
        async with living(app_from_config(config, log=make_logger(level="critical"))) as app:
            await test(app)

    asyncio.run(main())


def asked(app: Gateway, *, n: int, stream: bool) -> AsgiExchange:
    return post(app, "/v1/completions", {"model": "m", "prompt": "a b", "max_tokens": 6, "n": n, "stream": stream})


async def in_engines(kind: FakeKind, num: int) -> None:
    """Until so many streams run in the engines."""
    async with asyncio.timeout(10):
        while sum(kind.latest(name).num_live_streams for name in ("left", "right")) != num:
            await settle()


async def counted(app: Gateway) -> dict[str, float]:
    """The sums of what is under way."""
    exchange = get(app, "/metrics")
    await exchange.task
    text = exchange.body.decode()
    return {name: sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))) for name in COUNTS}


def outcomes_of(folder: Path) -> list[tuple[str, int]]:
    database = open_database(f"sqlite:///{folder}/gateway.db")
    with database.reading() as connection:
        rows = connection.execute(sa.select(ledger.c.outcome, ledger.c.num_output_tokens)).all()
    database.close()
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 3])
def test_leaving_before_the_first_byte_ends_the_request_in_the_engine(
    kind: FakeKind, tmp_path: Path, n: int, stream: bool
) -> None:
    kind.script = lambda request: [Stall()]

    async def test(app: Gateway) -> None:
        exchange = asked(app, n=n, stream=stream)
        await in_engines(kind, n)
        assert min((await counted(app)).values()) == 0 < (await counted(app))["enginebay_limits_reserved"]
        exchange.leave()
        await exchange.task
        await in_engines(kind, 0)
        assert sum(kind.latest(name).num_cancelled for name in ("left", "right")) == n
        assert exchange.messages == []
        assert await counted(app) == dict.fromkeys(COUNTS, 0.0)

    run(tmp_path, test)
    assert outcomes_of(tmp_path) == [("cancelled", 0)]


@pytest.mark.parametrize("n", [1, 3])
def test_leaving_after_the_first_token_ends_the_request_in_the_engine(kind: FakeKind, tmp_path: Path, n: int) -> None:
    kind.script = lambda request: [*say_tokens(request)[:4], Stall()]

    async def test(app: Gateway) -> None:
        exchange = asked(app, n=n, stream=True)
        async with asyncio.timeout(10):
            while exchange.body.count(b'"text"') < 2 * n:
                await exchange.next_message()
        assert (await counted(app))["llm_requests_in_flight"] == n
        exchange.leave()
        await exchange.task
        await in_engines(kind, 0)
        assert await counted(app) == dict.fromkeys(COUNTS, 0.0)

    run(tmp_path, test)
    assert outcomes_of(tmp_path) == [("cancelled", 2 * n)]


def test_a_hundred_clients_that_leave_at_every_moment_leave_nothing(kind: FakeKind, tmp_path: Path) -> None:
    """From before the request was read to after its last byte."""
    num_clients = 100

    async def test(app: Gateway) -> None:
        exchanges = []
        for moment in range(num_clients):
            exchange = asked(app, n=1 + moment % 2, stream=moment % 3 > 0)
            exchanges.append(exchange)
            for _ in range(moment):
                await asyncio.sleep(0)
            exchange.leave()
        await asyncio.gather(*(exchange.task for exchange in exchanges))
        await settle()
        assert await counted(app) == dict.fromkeys(COUNTS, 0.0)
        await in_engines(kind, 0)

    run(tmp_path, test)
    outcomes = [outcome for outcome, _ in outcomes_of(tmp_path)]
    assert len(outcomes) <= num_clients
    assert {"cancelled", "finished"} == set(outcomes)


class Flood(ScriptedBackend):
    """Says how many chunks of 64 KiB were asked of it."""

    num_played = 0

    async def _play(self, script: str, token_id: int) -> None:
        self.num_played += script == "flood"
        await super()._play(script, token_id)


def test_what_a_slow_reader_has_not_taken_is_bounded_and_its_engine_waits() -> None:
    with RunningServer(Flood) as server, socket.socket() as reader:
        reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        reader.connect(("127.0.0.1", server.port))
        body = json.dumps({"prompt": "flood", "max_tokens": 60, "stream": True, "ignore_eos": True}).encode()
        reader.sendall(http_request("POST", "/v1/completions", body))

        async def held() -> tuple[int, int, int]:
            """Bytes that wait for the reader, chunks made till then, and chunks made after many more turns."""
            async with asyncio.timeout(10):
                while not (waiting := max(map(_num_waiting_bytes, server.connections()), default=0)) > ONE_CHUNK_BYTES:
                    await settle()
            await settle()
            num_made = server.backend.num_played
            await settle()
            return waiting, num_made, server.backend.num_played

        num_bytes, num_made, num_made_later = server.run(held())
        assert num_bytes < 3 * ONE_CHUNK_BYTES
        assert num_made == num_made_later < 60
        reader.close()
        server.wait_until(lambda: server.backend.num_running == 0)


def _num_waiting_bytes(transport: asyncio.WriteTransport) -> int:
    return transport.get_write_buffer_size()
