"""What a gateway tells of what is under way in it; and a call that no replica would take is a call all the same."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from asgi_client import AsgiExchange, get, living, post, settle
from fake_kind import FakeKind, install_fake_kind
from gateway_child import sum_of

from enginebay.config.loader import parse_config
from enginebay.config.models import Config
from enginebay.gateway.app import Gateway
from enginebay.gateway.database import open_database
from enginebay.gateway.from_config import app_from_config
from enginebay.gateway.ledger.costs import costs
from enginebay.gateway.logs import make_logger
from enginebay.gateway.pool.replica import ReplicaState
from enginebay.testing.fake_backend import Stall

ASKED = {"model": "m", "prompt": "a b c", "max_tokens": 20}


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> FakeKind:
    return install_fake_kind(monkeypatch)


def config_in(folder: Path) -> Config:
    return parse_config(f"""
version: 1
backends: {{one: {{kind: fake}}}}
gateway:
  models: {{m: {{versions: {{v1: [{{backend: one}}]}}}}}}
  database: sqlite:///{folder}/gateway.db
  limits: {{address: {{tokens_per_minute: 100000, concurrent_requests: 10}}}}
  ledger: {{journal: {folder}/journal}}
""")


async def answered(exchange: AsgiExchange) -> AsgiExchange:
    await exchange.task
    return exchange


async def gauges(app: Gateway) -> tuple[float, float, float]:
    """(open requests beside this one, tokens reserved and requests reserved together, tasks)"""
    text = (await answered(get(app, "/metrics"))).body.decode()
    opened = sum_of(text, "enginebay_open_requests") - 1
    return opened, sum_of(text, "enginebay_limits_reserved"), sum_of(text, "enginebay_tasks")


def test_what_is_open_and_reserved_is_told_and_gone_when_the_clients_are(kind: FakeKind, tmp_path: Path) -> None:
    kind.script = lambda request: [Stall()]

    async def main() -> None:
        async with living(app_from_config(config_in(tmp_path), log=make_logger(level="critical"))) as app:
            num_tasks = (await gauges(app))[2]
            waiting = [post(app, "/v1/completions", ASKED) for _ in range(3)]
            await settle()
            opened, reserved, tasks = await gauges(app)
            assert (opened, reserved) == (3, 3 * (23 + 1))
            assert tasks >= num_tasks + 3
            for each in waiting:
                each.leave()
                await each.task
            assert (await gauges(app))[:2] == (0, 0)

    asyncio.run(main())


def test_a_call_that_no_replica_would_take_has_its_row(kind: FakeKind, tmp_path: Path) -> None:
    async def main() -> None:
        async with living(app_from_config(config_in(tmp_path), log=make_logger(level="critical"))) as app:
            [owned] = app.served.models.content.replicas.values()  # pyright: ignore[reportAttributeAccessIssue]
            owned.replica.became(ReplicaState.UNHEALTHY, "on a test's word")
            refused = await answered(post(app, "/v1/completions", ASKED))
            assert (refused.status, refused.json()["error"]["code"]) == (502, "backend_unavailable")

    asyncio.run(main())
    database = open_database(f"sqlite:///{tmp_path}/gateway.db")
    [row] = costs(database, by=("outcome",))
    database.close()
    assert row.group == ("failed",)
