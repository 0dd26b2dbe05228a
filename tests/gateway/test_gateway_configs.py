"""configs/gateway/*.yaml, from the smallest to the full: each is loaded and serves, with fake engines behind it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from asgi_client import get, living, post
from fake_kind import FakeKind, install_fake_kind

from enginebay.config.loader import load_config
from enginebay.config.models import Config
from enginebay.gateway.access.store import KeyStore
from enginebay.gateway.database import open_database
from enginebay.gateway.from_config import app_from_config
from enginebay.gateway.ledger.costs import costs
from enginebay.gateway.logs import make_logger

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "gateway").glob("*.yaml"))
IN_MEMORY = [path for path in CONFIGS if path.name != "shared.yaml"]


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeKind:
    monkeypatch.chdir(tmp_path)  # the files of databases and journals
    return install_fake_kind(monkeypatch, names=("reference", "openai_http"))


def a_key_of(config: Config) -> str | None:
    assert config.gateway is not None
    if config.gateway.access is None:
        return None
    database = open_database(str(config.gateway.database))
    try:
        return KeyStore(database).create("a test", scopes=["inference", "metrics"]).text
    finally:
        database.close()


async def serve_and_ask(config: Config) -> None:
    assert config.gateway is not None
    key = a_key_of(config)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    app = app_from_config(config, log=make_logger(level="critical"))
    async with living(app):
        for name in config.gateway.models:
            for stream in (False, True):
                asked = {"model": name, "messages": [{"role": "user", "content": "hello"}], "stream": stream}
                answer = post(app, "/v1/chat/completions", asked, headers=headers)
                await answer.task
                assert answer.status == 200, answer.body
        if key is not None:
            refused = post(app, "/v1/completions", {"model": "assistant", "prompt": "a"})
            await refused.task
            assert refused.status == 401
        metrics = get(app, "/metrics", headers=headers)
        await metrics.task
        assert b"enginebay_replica_available" in metrics.body
        health = get(app, "/health")
        await health.task
        assert health.status == 200


def demand_rows(config: Config) -> None:
    assert config.gateway is not None
    if config.gateway.ledger is None:
        return
    database = open_database(str(config.gateway.database))
    rows = costs(database, by=("model",))
    database.close()
    assert {row.group[0]: row.sums.num_finished for row in rows} == dict.fromkeys(config.gateway.models, 2)
    assert all(row.sums.cost_nano > 0 for row in rows)


def test_there_are_configs_from_the_smallest_to_the_full() -> None:
    sizes = {path.stem: len(path.read_text().splitlines()) for path in CONFIGS}
    assert set(sizes) == {"one-model", "pools", "keys", "full", "shared"}
    assert min(sizes, key=lambda name: sizes[name]) == "one-model"
    assert max(sizes, key=lambda name: sizes[name]) == "full"


@pytest.mark.parametrize("path", IN_MEMORY, ids=lambda path: path.stem)
def test_the_config_serves(path: Path, kind: FakeKind) -> None:
    config = load_config(path, environment={})
    asyncio.run(serve_and_ask(config))
    demand_rows(config)


@pytest.mark.redis
@pytest.mark.postgres
def test_the_shared_config_serves_with_redis_and_postgresql(
    kind: FakeKind, redis_url: str, new_postgres_url: object
) -> None:
    url = next(new_postgres_url)  # pyright: ignore[reportArgumentType, reportCallIssue]
    path = next(path for path in CONFIGS if path.stem == "shared")
    config = load_config(path, environment={"DATABASE_URL": url, "REDIS_URL": redis_url})
    asyncio.run(serve_and_ask(config))
    demand_rows(config)
