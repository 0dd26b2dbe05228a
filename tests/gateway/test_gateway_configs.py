"""configs/gateway/*.yaml, from the smallest to the full: each is loaded and serves, with fake engines behind it."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from asgi_client import get, living, post
from fake_kind import FakeKind, install_fake_kind

from enginebay.config.loader import load_config
from enginebay.config.models import Config
from enginebay.configured import config_problems
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


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_the_config_is_sound_to_the_real_kinds_of_backends(path: Path) -> None:
    """As `enginebay config validate` says it: no setting stands where an engine could not honour it."""
    assert config_problems(load_config(path, environment={})) == []


@pytest.mark.parametrize("path", IN_MEMORY, ids=lambda path: path.stem)
def test_the_config_serves(path: Path, kind: FakeKind) -> None:
    config = load_config(path, environment={})
    asyncio.run(serve_and_ask(config))
    demand_rows(config)


@pytest.mark.weights
def test_our_own_engines_and_servers_that_run_already_serve_in_one_gateway() -> None:
    path = next(path for path in CONFIGS if path.stem == "pools")
    asked = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 3}

    async def main() -> None:
        async with AsyncExitStack() as stack:
            urls = [await stack.enter_async_context(running_simulator("smollm2-135m")) for _ in range(2)]
            config = load_config(path, environment=dict(zip(("LEFT_URL", "RIGHT_URL"), urls, strict=True)))
            app = await stack.enter_async_context(living(app_from_config(config, log=make_logger(level="critical"))))
            for model, kind in (("assistant", "reference"), ("assistant@v2", "openai_http"), ("spare", "openai_http")):
                shown = get(app, f"/v1/models/{model}")
                await shown.task
                assert shown.json()["kind"] == kind
                answer = post(app, "/v1/chat/completions", {**asked, "model": model})
                await answer.task
                assert (answer.status, answer.json()["usage"]["completion_tokens"]) == (200, 3), answer.body

    asyncio.run(main())


@asynccontextmanager
async def running_simulator(model: str) -> AsyncIterator[str]:
    """The URL of a simulated vLLM in a process of its own."""
    command = [sys.executable, "-m", "enginebay.cli", "simulate", "vllm", "--port", "0", "--load-time-s", "0"]
    process = await asyncio.create_subprocess_exec(*command, "--", "--model", model, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        line = (await process.stdout.readline()).decode()
        found = re.search(r"http://\S+", line)
        assert found is not None, line
        yield found.group()
    finally:
        process.terminate()
        await process.communicate()


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
