"""Fallbacks behind the routes: who may be answered by them, and what does not keep them from answering."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from asgi_client import AsgiExchange, living, post
from fake_kind import FakeKind, install_fake_kind

from enginebay.config.loader import parse_config
from enginebay.gateway.access.store import KeyStore
from enginebay.gateway.app import Gateway
from enginebay.gateway.database import open_database
from enginebay.gateway.from_config import app_from_config
from enginebay.gateway.logs import make_logger
from enginebay.gateway.models.catalog import Catalog
from enginebay.gateway.pool.replica import ReplicaState

CONFIG = """
version: 1
backends:
  one: {{kind: fake}}
  two: {{kind: fake}}
gateway:
  database: sqlite:///{folder}/gateway.db
  {more}
  models:
    assistant: {{versions: {{v1: [{{backend: one}}]}}, fallbacks: [writer]}}
    writer: {{versions: {{v1: [{{backend: two}}]}}}}
"""
CHAT = {"model": "assistant", "messages": [{"role": "user", "content": "hello there"}]}
TEXT = {"model": "assistant", "prompt": "a b c", "max_tokens": 4}


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> FakeKind:
    return install_fake_kind(monkeypatch)


def run(folder: Path, more: str, test: Callable[[Gateway], Awaitable[None]]) -> None:
    async def main() -> None:
        config = parse_config(CONFIG.format(folder=folder, more=more))
        async with living(app_from_config(config, log=make_logger(level="critical"))) as app:
            await test(app)

    asyncio.run(main())


def take_away(app: Gateway, name: str) -> None:
    assert isinstance(app.served.models, Catalog)
    app.served.models.content.replicas[name].replica.became(ReplicaState.UNHEALTHY, "a test says so")


async def answered(exchange: AsgiExchange) -> AsgiExchange:
    await exchange.task
    return exchange


@pytest.mark.parametrize(
    ("more", "path", "fields"),
    [
        ("", "/v1/chat/completions", CHAT),
        ("limits: {address: {tokens_per_minute: 100000}}", "/v1/chat/completions", CHAT),
        ("limits: {address: {tokens_per_minute: 100000}}", "/v1/completions", TEXT),
    ],
)
def test_prompts_that_nobody_can_count_keep_no_fallback_from_answering(
    kind: FakeKind, tmp_path: Path, more: str, path: str, fields: dict[str, object]
) -> None:
    """The default of a chat and what limits reserve are counted by the model that was asked for."""

    async def test(app: Gateway) -> None:
        assert (await answered(post(app, path, fields))).status == 200
        take_away(app, "one-0")
        answer = await answered(post(app, path, fields))
        assert answer.status == 200, answer.body
        assert len(kind.latest("two").requests) == 1

    run(tmp_path, more, test)


@pytest.mark.parametrize(("models", "status"), [(None, 200), (["assistant", "writer"], 200), (["assistant"], 502)])
def test_a_key_is_answered_by_no_model_that_it_could_not_ask_for(
    kind: FakeKind, tmp_path: Path, models: list[str] | None, status: int
) -> None:
    database = open_database(f"sqlite:///{tmp_path}/gateway.db")
    key = KeyStore(database).create("a test", scopes=["inference"], models=models).text
    database.close()

    async def test(app: Gateway) -> None:
        take_away(app, "one-0")
        answer = await answered(post(app, "/v1/completions", TEXT, headers={"authorization": f"Bearer {key}"}))
        assert answer.status == status, answer.body
        assert len(kind.latest("two").requests) == (status == 200)

    run(tmp_path, "access: {}", test)
