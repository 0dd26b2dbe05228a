"""Requests that never become a call: who has an outcome in the ledger, and who is only counted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from asgi_client import AsgiExchange, get, living, post
from fake_kind import FakeKind, install_fake_kind

from enginebay.config.loader import parse_config
from enginebay.gateway.access.keys import new_key_id, new_key_text
from enginebay.gateway.access.store import KeyStore
from enginebay.gateway.app import Gateway
from enginebay.gateway.database import open_database
from enginebay.gateway.from_config import app_from_config
from enginebay.gateway.ledger.tables import ledger
from enginebay.gateway.logs import make_logger

CONFIG = """
version: 1
backends: {{one: {{kind: fake}}}}
server: {{max_body_bytes: 1000}}
gateway:
  models: {{assistant: {{versions: {{v1: [{{backend: one}}]}}}}}}
  database: sqlite:///{folder}/gateway.db
  access: {{}}
  limits: {{key: {{requests_per_minute: 20, tokens_per_minute: 100000}}}}
  ledger: {{journal: {folder}/journal, prices: {{assistant: {{prompt: 1, output: 2}}}}}}
"""
ASKED = {"model": "assistant", "prompt": "a b c", "max_tokens": 4}


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> FakeKind:
    return install_fake_kind(monkeypatch)


def new_key(folder: Path, *scopes: str) -> dict[str, str]:
    with closing(open_database(f"sqlite:///{folder}/gateway.db")) as database:
        text = KeyStore(database).create("a test", scopes=scopes or ["inference"]).text
    return {"authorization": f"Bearer {text}"}


def serve(folder: Path, test: Callable[[Gateway], Awaitable[None]]) -> list[tuple[str, str | None, str]]:
    """Outcome, code and model of each row in the end; each has its cost."""

    async def main() -> None:
        config = parse_config(CONFIG.format(folder=folder))
        async with living(app_from_config(config, log=make_logger(level="critical"))) as app:
            await test(app)

    asyncio.run(main())
    with closing(open_database(f"sqlite:///{folder}/gateway.db")) as database, database.reading() as connection:
        assert None not in connection.execute(sa.select(ledger.c.cost_nano)).scalars().all()
        query = sa.select(ledger.c.outcome, ledger.c.error_code, ledger.c.model).order_by(ledger.c.position)
        return [(row.outcome, row.error_code, row.model) for row in connection.execute(query)]


async def answered(exchange: AsgiExchange) -> AsgiExchange:
    await exchange.task
    return exchange


async def errors(app: Gateway, headers: dict[str, str]) -> dict[str, float]:
    text = (await answered(get(app, "/metrics", headers=headers))).body.decode()
    prefix = 'enginebay_gateway_errors_total{code="'
    lines = [line.removeprefix(prefix) for line in text.splitlines() if line.startswith(prefix)]
    return {code: float(value) for code, value in (line.split('"} ') for line in lines)}


def test_whoever_is_let_in_has_one_row_whatever_it_sends(kind: FakeKind, tmp_path: Path) -> None:
    headers = new_key(tmp_path, "admin")

    async def test(app: Gateway) -> None:
        for body, status in ((b"{", 400), (b"x" * 2000, 413), (json.dumps({**ASKED, "oddity": 1}).encode(), 400)):
            exchange = AsgiExchange(app, "POST", "/v1/completions", body, headers=headers)
            assert (await answered(exchange)).status == status
        unknown = post(app, "/v1/chat/completions", {**ASKED, "model": "nobody"}, headers=headers)
        assert (await answered(unknown)).status in (400, 404)
        assert (await answered(post(app, "/generate", {"prompt": 7}, headers=headers))).status == 400
        assert (await answered(post(app, "/v1/completions", ASKED, headers=headers))).status == 200
        assert sum((await errors(app, headers)).values()) == 5

    rows = serve(tmp_path, test)
    assert [outcome for outcome, _, _ in rows] == ["refused"] * 5 + ["finished"]
    assert [model for _, _, model in rows] == [""] * 5 + ["assistant"]
    assert rows[1] == ("refused", "body_too_large", "")


def test_whoever_names_a_session_that_is_none_has_one_row(kind: FakeKind, tmp_path: Path) -> None:
    headers = {**new_key(tmp_path), "x-enginebay-session": "s" * 257}

    async def test(app: Gateway) -> None:
        assert (await answered(post(app, "/v1/completions", ASKED, headers=headers))).status == 400

    assert serve(tmp_path, test) == [("refused", "invalid_request", "")]


def test_a_client_that_leaves_while_it_sends_its_body_is_one_that_cancelled(kind: FakeKind, tmp_path: Path) -> None:
    headers = new_key(tmp_path)

    async def test(app: Gateway) -> None:
        exchange = post(app, "/v1/completions", ASKED, headers=headers)
        exchange._body = None  # its body never comes
        exchange.leave()
        await exchange.task
        assert exchange.messages == []

    assert serve(tmp_path, test) == [("cancelled", None, "")]


def test_whoever_is_not_let_in_has_no_row_and_is_counted(kind: FakeKind, tmp_path: Path) -> None:
    headers, metrics = new_key(tmp_path), new_key(tmp_path, "metrics")

    async def test(app: Gateway) -> None:
        for _ in range(5):
            wrong = {"authorization": f"Bearer {new_key_text(new_key_id())}"}
            assert (await answered(post(app, "/v1/completions", ASKED, headers=wrong))).status == 401
        assert (await answered(post(app, "/v1/completions", ASKED, headers=metrics))).status == 403
        for _ in range(20):
            assert (await answered(get(app, "/v1/models", headers=headers))).status == 200
        assert (await answered(post(app, "/v1/completions", ASKED, headers=headers))).status == 429
        assert await errors(app, metrics) == {"invalid_api_key": 5, "permission_denied": 1, "rate_limit_exceeded": 1}

    assert serve(tmp_path, test) == []


def test_what_asks_no_model_for_an_answer_has_no_row_either_way(kind: FakeKind, tmp_path: Path) -> None:
    headers = new_key(tmp_path)

    async def test(app: Gateway) -> None:
        assert (await answered(get(app, "/v1/models", headers=headers))).status == 200
        assert (await answered(get(app, "/v1/models/nobody", headers=headers))).status == 404
        assert (await answered(post(app, "/tokenize", {"oddity": 1}, headers=headers))).status == 400

    assert serve(tmp_path, test) == []


def test_a_call_that_is_refused_has_one_row_and_is_one_error(kind: FakeKind, tmp_path: Path) -> None:
    headers = new_key(tmp_path, "admin")

    async def test(app: Gateway) -> None:
        too_much = post(app, "/v1/completions", {**ASKED, "max_tokens": 200_000}, headers=headers)
        assert (await answered(too_much)).status == 400
        assert await errors(app, headers) == {"invalid_request": 1}

    assert serve(tmp_path, test) == [("refused", "invalid_request", "assistant")]
