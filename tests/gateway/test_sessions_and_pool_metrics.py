"""A session named in a header stays on its replica; `/metrics` tells of pools and replicas."""

import asyncio
from itertools import count

import pytest
from asgi_client import get, living, post
from fake_kind import install_fake_kind

from enginebay.config.loader import parse_config
from enginebay.configured import config_problems
from enginebay.errors import ConfigError, EngineDied
from enginebay.gateway.from_config import app_from_config
from enginebay.gateway.logs import make_logger
from enginebay.testing import FakeClock, say_tokens

CONFIG = """
version: 1
backend: one
backends:
  one: {kind: fake, replicas: 3}
gateway:
  routing: {policy: consistent_hash}
  models:
    assistant: {versions: {v1: [{backend: one}]}}
"""
ASKED = {"model": "assistant", "prompt": "a b c", "max_tokens": 4}


@pytest.fixture
def kind(monkeypatch):
    return install_fake_kind(monkeypatch)


def run(test, config=CONFIG):
    async def main():
        clock = FakeClock(1000.0)
        app = app_from_config(parse_config(config), log=make_logger(level="critical"), clock=clock)

        async def live():
            async with living(app):
                await test(app)

        await clock.run(live())

    asyncio.run(main())


async def ask(app, **headers):
    exchange = post(app, "/v1/completions", ASKED, **headers)
    await exchange.task
    return exchange


def test_a_session_stays_on_one_replica_and_sessions_spread_over_all(kind):
    async def test(app):
        for session in range(30):
            before = [len(fake.requests) for fake in kind.backends["one"]]
            for _ in range(3):
                assert (await ask(app, headers={"x-enginebay-session": f"s{session}"})).status == 200
            added = [len(fake.requests) - number for fake, number in zip(kind.backends["one"], before, strict=True)]
            assert sorted(added) == [0, 0, 3]
        assert all(len(fake.requests) > 10 for fake in kind.backends["one"])

    run(test)


@pytest.mark.parametrize("name", ["", "x" * 257])
def test_a_session_without_a_sound_name_is_refused_by_the_headers_name(kind, name):
    async def test(app):
        refused = await ask(app, headers={"x-enginebay-session": name})
        assert (refused.status, refused.json()["error"]["param"]) == (400, "x-enginebay-session")

    run(test)


def test_metrics_count_retries_and_show_which_replica_is_left_alone(kind):
    def script(request):
        return [EngineDied("died")] if next(serials) in range(0, 10, 2) else say_tokens(request)

    serials = count()

    async def test(app):
        kind.script = script
        for _ in range(10):
            await ask(app)
        exchange = get(app, "/metrics")
        await exchange.task
        text = exchange.body.decode()
        assert 'enginebay_replica_available{replica="one-0"} 1.0' in text
        assert 'enginebay_replica_starts_total{replica="one-2"} 1.0' in text
        assert 'enginebay_pool_inside{model="assistant",version="v1"} 0.0' in text
        assert 'enginebay_pool_retries_total{model="assistant",version="v1"} 5.0' in text
        assert 'enginebay_pool_failovers_total{model="assistant",version="v1"} 0.0' in text

    run(test)


def test_copies_of_an_engine_are_sound_for_models_of_a_gateway_and_refused_elsewhere(kind):
    assert config_problems(parse_config(CONFIG)) == []
    without = parse_config(CONFIG.split("gateway:")[0])
    [problem] = config_problems(without)
    assert "backends.one.replicas: found 3" in str(problem)


def test_one_backend_with_two_weights_is_refused(kind):
    weights = "{v1: [{backend: one}], v2: [{backend: one, weight: 2}]}, current: v1"
    config = CONFIG.replace("{v1: [{backend: one}]}", weights)
    with pytest.raises(ConfigError, match="different weights in two versions"):
        run(None, config)
