"""What a client is told of its limits, in every answer of a gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from asgi_client import AsgiExchange, get, living, post
from fake_kind import FakeKind, install_fake_kind

from enginebay.config.loader import parse_config
from enginebay.gateway.app import Gateway, build_app
from enginebay.gateway.call import Call
from enginebay.gateway.from_config import app_from_config
from enginebay.gateway.hooks import GatewayHook
from enginebay.gateway.limits.demands import most_tokens
from enginebay.gateway.logs import make_logger
from enginebay.guard import GuardedBackend
from enginebay.testing.fake_backend import FakeBackend

CONFIG = """
version: 1
backends: {one: {kind: fake}}
gateway:
  models: {assistant: {versions: {v1: [{backend: one}]}}}
"""
ASKED = {"model": "assistant", "prompt": "a b c", "max_tokens": 4}


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> FakeKind:
    return install_fake_kind(monkeypatch)


def serve(limits: str, test: Callable[[Gateway], Awaitable[None]]) -> None:
    async def main() -> None:
        app = app_from_config(parse_config(f"{CONFIG}  limits: {limits}\n"), log=make_logger(level="critical"))
        async with living(app):
            await test(app)

    asyncio.run(main())


async def asked(app: Gateway, **fields: object) -> AsgiExchange:
    exchange = post(app, "/v1/completions", {**ASKED, **fields})
    await exchange.task
    return exchange


def told(exchange: AsgiExchange) -> dict[str, str]:
    names = [name for name, _ in exchange.messages[0]["headers"]]
    assert len(names) == len(set(names))
    prefix = "x-ratelimit-"
    return {
        name.decode().removeprefix(prefix): value.decode()
        for name, value in exchange.messages[0]["headers"]
        if name.startswith(prefix.encode())
    }


@pytest.mark.parametrize("stream", [False, True])
def test_each_answer_tells_what_is_left_of_requests_and_tokens(kind: FakeKind, stream: bool) -> None:
    async def test(app: Gateway) -> None:
        for left in (1, 0):
            answer = await asked(app, stream=stream)
            assert answer.status == 200
            assert told(answer) | {"limit-requests": "2", "remaining-requests": str(left)} == told(answer)
            assert told(answer)["reset-requests"] == told(answer)["reset-tokens"] == "1m0s"
            # this one holds 3 + 4, and has not ended when its answer begins
            assert told(answer)["remaining-tokens"] == str(100 - 7 * (2 - left))
        refused = await asked(app)
        assert refused.status == 429
        assert told(refused) == {"limit-requests": "2", "remaining-requests": "0", "reset-requests": "1m0s"}
        assert 1 <= int(refused.header("retry-after") or 0) <= 60

    serve("{address: {requests_per_minute: 2, tokens_per_minute: 100}}", test)


def test_a_refusal_for_tokens_tells_of_both(kind: FakeKind) -> None:
    async def test(app: Gateway) -> None:
        assert (await asked(app)).status == 200
        refused = await asked(app)
        assert refused.status == 429
        assert told(refused)["remaining-requests"] == "8"
        assert told(refused)["remaining-tokens"] == "3"
        assert int(refused.header("retry-after") or 0) >= 1

    serve("{address: {requests_per_minute: 10, tokens_per_minute: 10}}", test)


def test_without_limits_nothing_is_told(kind: FakeKind) -> None:
    async def test(app: Gateway) -> None:
        assert told(await asked(app)) == {}

    serve("{}", test)


def test_no_answer_shows_the_headers_of_another(kind: FakeKind, tmp_path: Path) -> None:
    async def test(app: Gateway) -> None:
        answers = await asyncio.gather(*(asked(app) for _ in range(20)))
        assert sorted(int(told(answer)["remaining-requests"]) for answer in answers) == [*range(80, 100)]

    serve("{address: {requests_per_minute: 100}}", test)


def test_a_prompt_in_the_address_is_reserved_as_one_in_a_body_is() -> None:
    most: list[int] = []

    class Watch(GatewayHook):
        async def before_routing(self, call: Call) -> None:
            most.append(most_tokens(call))

    async def main() -> None:
        log = make_logger(level="critical")
        app = build_app(GuardedBackend(FakeBackend()), served_name="assistant", log=log, hooks=[Watch()])
        async with living(app):
            await get(app, f"/generate?prompt={'x' * 500}&max_tokens=2").task

    asyncio.run(main())
    assert most[0] >= 500 + 2
