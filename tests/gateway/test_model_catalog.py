"""Aliases, versions, and how a new config takes the place of the old one."""

import asyncio
from random import Random

import pytest
from pool_of_fakes import a_call, a_request, paused, settled, tasks_but_this, text_of

from enginebay.errors import BackendTimeout, StartFailed, UnknownModel
from enginebay.gateway.hooks import Hooks
from enginebay.gateway.logs import make_logger
from enginebay.gateway.models.catalog import Alias, Catalog, CatalogContent, ModelVersion
from enginebay.gateway.pool.pool import ModelPool
from enginebay.gateway.replicas import OwnedReplica
from enginebay.gateway.routing.registry import make_policy
from enginebay.guard import GuardedBackend
from enginebay.testing import FakeBackend, FakeClock
from enginebay.types import HealthState
from enginebay.wire.deadlines import DeadlineWatch


class Town:
    """Makes replicas and contents of catalogs that share a clock."""

    def __init__(self):
        self.clock = FakeClock()
        self.watch = DeadlineWatch(self.clock)
        self.fakes = {}

    def replica(self, name, *, start_takes_s=0.0, start_error=None):
        def make():
            self.fakes[name] = FakeBackend(
                script=paused(1.0), clock=self.clock, name=name, start_takes_s=start_takes_s, start_error=start_error
            )
            return GuardedBackend(self.fakes[name])

        return OwnedReplica(name, make, clock=self.clock, watch=self.watch, log=make_logger(), rng=Random(1))

    def content(self, versions, current="v1"):
        """versions: {"v1": [OwnedReplica, ...]} of the one alias `assistant`."""
        pools = {version: self.pool(owned) for version, owned in versions.items()}
        served = {
            version: ModelVersion(
                name="assistant", version=version, pool=pool, default_max_tokens=None, created_at_unix=0
            )
            for version, pool in pools.items()
        }
        replicas = {each.replica.name: each for owned in versions.values() for each in owned}
        alias = Alias(name="assistant", versions=served, current=current)
        return CatalogContent(aliases={"assistant": alias}, replicas=replicas)

    def pool(self, owned):
        return ModelPool(
            [each.replica for each in owned],
            make_policy("least_loaded", {}, Random(1)),
            hooks=Hooks((), make_logger()),
            clock=self.clock,
            watch=self.watch,
            rng=Random(1),
        )

    def catalog(self, content):
        return Catalog(content, clock=self.clock, watch=self.watch, log=make_logger())


async def ask(model):
    request = a_request()
    return text_of([chunk async for chunk in model.stream(a_call(request), request)])


def run(main):
    town = Town()

    async def checked():
        await main(town)
        await settled()
        assert tasks_but_this() == set()

    asyncio.run(checked())


def test_an_alias_moves_for_the_next_call_while_the_running_one_stays_where_it_began():
    async def main(town):
        catalog = town.catalog(town.content({"v1": [town.replica("one")], "v2": [town.replica("two")]}))
        catalog.begin()
        await town.clock.run(catalog.wait_until_ready())
        before = catalog.find("assistant")
        running = asyncio.create_task(ask(before))
        await settled()
        catalog.move("assistant", "v2")
        after = catalog.find("assistant")
        assert (before.version, after.version) == ("v1", "v2")
        asked = asyncio.create_task(ask(after))
        await town.clock.run(asyncio.gather(running, asked))
        assert [len(town.fakes[name].requests) for name in ("one", "two")] == [1, 1]
        await catalog.end()

    run(main)


def test_a_version_can_be_asked_for_by_name_and_what_there_is_not_is_none():
    async def main(town):
        catalog = town.catalog(town.content({"v1": [town.replica("one")], "v2": [town.replica("two")]}))
        assert catalog.find("assistant").version == "v1"
        assert catalog.find("assistant@v2").version == "v2"
        assert catalog.find("assistant@v3") is None
        assert catalog.find("nobody") is None
        assert catalog.find("nobody@v1") is None
        with pytest.raises(UnknownModel, match="assistant@v1, assistant@v2"):
            catalog.move("assistant", "v3")
        with pytest.raises(UnknownModel, match="available: assistant"):
            catalog.move("nobody", "v1")
        await catalog.end()

    run(main)


def test_a_new_content_starts_what_is_new_keeps_what_is_shared_and_lets_the_rest_finish():
    async def main(town):
        kept, old, new = town.replica("kept"), town.replica("old"), town.replica("new", start_takes_s=3.0)
        catalog = town.catalog(town.content({"v1": [old], "v2": [kept]}))
        catalog.begin()
        await town.clock.run(catalog.wait_until_ready())
        running = asyncio.create_task(ask(catalog.find("assistant")))
        await settled()
        exchanging = asyncio.create_task(
            catalog.exchange(town.content({"v1": [new], "v2": [kept]}), ready_within_s=10.0)
        )
        await settled()
        assert catalog.find("assistant").pool.replicas == (old.replica,)
        await town.clock.run(exchanging)
        assert catalog.find("assistant").pool.replicas == (new.replica,)
        assert (await running).split() == ["t0", "t1", "t2", "t3"]
        await town.clock.run_for(1.0)
        assert town.fakes["old"].num_closes == 1
        assert (kept.num_starts, town.fakes["kept"].num_closes) == (1, 0)
        await catalog.end()
        assert [fake.num_closes for fake in town.fakes.values()] == [1, 1, 1]

    run(main)


def test_a_new_content_that_does_not_become_ready_changes_nothing():
    async def main(town):
        old = town.replica("old")
        catalog = town.catalog(town.content({"v1": [old]}))
        catalog.begin()
        await town.clock.run(catalog.wait_until_ready())
        content = catalog.content
        broken = town.content({"v1": [town.replica("broken", start_error=StartFailed("no memory"))]})
        with pytest.raises(BackendTimeout, match=r"everything stays as it was.*no memory"):
            await town.clock.run(catalog.exchange(broken, ready_within_s=5.0))
        assert catalog.content is content
        assert await town.clock.run(ask(catalog.find("assistant")))
        assert town.fakes["old"].num_closes == 0
        await catalog.end()

    run(main)


def test_health_says_what_is_lost_and_costs_no_question():
    async def main(town):
        replicas = [town.replica("one"), town.replica("two", start_error=StartFailed("no memory"))]
        catalog = town.catalog(town.content({"v1": replicas}))
        assert (await catalog.health()).state is HealthState.LOADING
        catalog.begin()
        await settled()
        health = await catalog.health()
        assert health.state is HealthState.READY
        assert health.reason == "assistant: two is dead: start failed: no memory"
        assert catalog.is_simulated
        assert len(list(catalog.exporters())) == 2
        await catalog.end()
        assert (await catalog.health()).state is HealthState.DEAD

    run(main)
