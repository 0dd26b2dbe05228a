"""A new config while calls run: what must not be started again, what must not be taken away, what must not wait."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from asgi_client import AsgiExchange, get, living, post, settle
from fake_kind import FakeKind, install_fake_kind

from enginebay.config.loader import load_config, parse_config
from enginebay.config.models import Config
from enginebay.gateway.app import Gateway
from enginebay.gateway.assembly.assembly import Assembly
from enginebay.gateway.call import Call
from enginebay.gateway.hooks import GatewayHook
from enginebay.gateway.logs import make_logger
from enginebay.gateway.models.catalog import Catalog
from enginebay.gateway.reloading import Reloader
from enginebay.testing.fake_backend import say_tokens
from enginebay.testing.fake_clock import FakeClock
from enginebay.types import Health, HealthState

CONFIG = """
version: 1
backends:
  one: {kind: fake, replicas: 2}
  two: {kind: fake}
gateway:
  models:
    assistant: {versions: {v1: [{backend: one, weight: 1.0}]}}
    writer: {versions: {v1: [{backend: two}]}}
"""
ASKED = {"model": "assistant", "prompt": "a b c", "max_tokens": 4}
Test = Callable[[Assembly, Gateway, FakeClock], Awaitable[None]]


@pytest.fixture
def kind(monkeypatch: pytest.MonkeyPatch) -> FakeKind:
    return install_fake_kind(monkeypatch)


def run(test: Test, *hooks: GatewayHook) -> None:
    async def main() -> None:
        clock = FakeClock(1000.0)
        assembly = Assembly(parse_config(CONFIG), log=make_logger(level="critical"), clock=clock, extra_hooks=hooks)
        app = Gateway(assembly.served, assembly.open_requests, assembly.parts)

        async def live() -> None:
            async with living(app):
                await test(assembly, app, clock)

        await clock.run(live())

    asyncio.run(main())


def catalog_of(assembly: Assembly) -> Catalog:
    assert isinstance(assembly.served.models, Catalog)
    return assembly.served.models


async def answered(exchange: AsgiExchange) -> AsgiExchange:
    await exchange.task
    return exchange


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("weight: 1.0", "weight: 3.0"),
        ("gateway:", "gateway:\n  breaker: {num_failures: 1, open_s: 7}"),
        ("gateway:", "gateway:\n  health: {period_s: 9}"),
        ("gateway:", "gateway:\n  restarts: {min_pause_s: 9}"),
        ("replicas: 2", "replicas: 3"),
    ],
)
def test_what_the_engine_knows_nothing_of_changes_without_a_new_engine(kind: FakeKind, old: str, new: str) -> None:
    async def test(assembly: Assembly, app: Gateway, clock: FakeClock) -> None:
        running = list(kind.backends["one"])
        await assembly.reload(parse_config(CONFIG.replace(old, new)))
        assert [backend.num_closes for backend in running] == [0, 0]
        assert len(kind.backends["one"]) == (3 if "replicas" in new else 2)

    run(test)


def test_a_new_weight_and_a_new_breaker_hold_from_the_reload_on(kind: FakeKind) -> None:
    async def test(assembly: Assembly, app: Gateway, clock: FakeClock) -> None:
        changed = CONFIG.replace("weight: 1.0", "weight: 3.0").replace(
            "gateway:", "gateway:\n  breaker: {num_failures: 1}"
        )
        await assembly.reload(parse_config(changed))
        replica = catalog_of(assembly).content.replicas["one-0"].replica
        assert replica.weight == 3.0
        replica.breaker.failed(None)
        assert replica.breaker.state == "open"

    run(test)


def test_a_reload_that_is_refused_changes_no_weight(kind: FakeKind) -> None:
    async def test(assembly: Assembly, app: Gateway, clock: FakeClock) -> None:
        changed = CONFIG.replace("weight: 1.0", "weight: 3.0").replace("{backend: two}", "{backend: fakir}")
        with pytest.raises(Exception, match="fakir"):
            await assembly.reload(parse_config(changed))
        assert catalog_of(assembly).content.replicas["one-0"].replica.weight == 1.0

    run(test)


class Waits(GatewayHook):
    """Like a limit in a Redis that takes its time: the call has its model, and no replica yet."""

    def __init__(self) -> None:
        self.has_come, self.may_go = asyncio.Event(), asyncio.Event()

    async def before_routing(self, call: Call) -> None:
        self.has_come.set()
        await self.may_go.wait()


def test_a_call_that_has_its_model_and_no_replica_yet_is_answered_by_the_engine_that_a_reload_takes_away(
    kind: FakeKind,
) -> None:
    hook = Waits()

    async def test(assembly: Assembly, app: Gateway, clock: FakeClock) -> None:
        old = kind.latest("one")
        asked = post(app, "/v1/completions", ASKED)
        await hook.has_come.wait()
        await assembly.reload(parse_config(CONFIG.replace("{backend: one, weight: 1.0}", "{backend: two}")))
        await clock.sleep_until(clock.now() + 5.0)
        assert old.num_closes == 0
        hook.may_go.set()
        answer = await answered(asked)
        assert answer.status == 200, answer.body
        await clock.sleep_until(clock.now() + 1.0)
        assert old.num_closes == 1

    run(test, hook)


def test_a_model_that_is_down_keeps_no_other_from_being_changed(kind: FakeKind) -> None:
    async def test(assembly: Assembly, app: Gateway, clock: FakeClock) -> None:
        kind.latest("two").health_now = Health(HealthState.DEAD, "gone")
        await clock.sleep_until(clock.now() + 10.0)
        assert not catalog_of(assembly).content.replicas["two-0"].replica.is_available()
        began_at = clock.now()
        await assembly.reload(parse_config(CONFIG.replace("replicas: 2", "replicas: 3")))
        assert clock.now() - began_at < 5.0
        assert len(kind.backends["one"]) == 3

    run(test)


def test_a_gateway_that_lost_a_replica_or_one_of_its_models_is_still_ready_and_says_what_it_lost(
    kind: FakeKind,
) -> None:
    async def test(assembly: Assembly, app: Gateway, clock: FakeClock) -> None:
        assert (await answered(get(app, "/health"))).body == b'{"status":"healthy"}'
        for lost in ("two", "one"):
            kind.latest(lost).health_now = Health(HealthState.DEAD, "gone")
            await clock.sleep_until(clock.now() + 10.0)
            health = await answered(get(app, "/health"))
            assert health.status == 200
            assert b'"status":"degraded"' in health.body
            assert f"{lost}-".encode() in health.body
        kind.backends["one"][0].health_now = Health(HealthState.DEAD, "gone too")
        await clock.sleep_until(clock.now() + 10.0)
        health = await answered(get(app, "/health"))
        assert (health.status, b"gone too" in health.body) == (503, True)
        kind.script = say_tokens

    run(test)


def test_a_file_that_is_mended_takes_the_place_of_one_whose_engines_do_not_come_up(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    seen: asyncio.Queue[str] = asyncio.Queue()
    slow, mended = (f"{CONFIG}server: {{max_open_requests: {number}}}\n" for number in (1, 2))

    async def reload(config: Config) -> None:
        seen.put_nowait(f"begun {config.server.max_open_requests}")
        try:
            if config.server.max_open_requests == 1:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.put_nowait("given up")
            raise

    async def main() -> None:
        loop = asyncio.get_running_loop()

        def read() -> Config:
            try:
                return load_config(file)
            finally:
                loop.call_soon_threadsafe(seen.put_nowait, "read")

        reloader = Reloader(file, read, reload, watches_file=False, log=make_logger(level="critical"))
        await reloader.begin()
        for text, told in (
            (slow, ["read", "begun 1"]),
            ("version: 2\n", ["read"]),
            (f"# the same in other words\n{slow}", ["read"]),
            (mended, ["read", "given up", "begun 2"]),
        ):
            file.write_text(text)
            reloader.ask()
            async with asyncio.timeout(10):
                assert [await seen.get() for _ in told] == told
            await settle()
            assert seen.empty()
        await reloader.end()
        assert (reloader.num_reloads, reloader.num_refused) == (1, 1)

    asyncio.run(main())
