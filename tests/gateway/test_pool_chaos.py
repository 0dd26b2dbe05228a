"""Ten thousand requests over three replicas that do everything wrong, and nothing is left of them."""

import asyncio
from collections import Counter
from contextlib import aclosing
from dataclasses import replace
from random import Random

from pool_of_fakes import a_request, going_on, settled, tasks_but_this

from enginebay.errors import (
    BackendOverloaded,
    BackendUnavailable,
    EngineBayError,
    EngineDied,
    InvalidRequest,
    UpstreamError,
)
from enginebay.gateway.call import Call, Client
from enginebay.gateway.hooks import GatewayHook, Hooks
from enginebay.gateway.logs import make_logger
from enginebay.gateway.models.catalog import Alias, Catalog, CatalogContent, ModelVersion
from enginebay.gateway.passage import Passage
from enginebay.gateway.pool.admission import AdmissionBounds
from enginebay.gateway.pool.breaker import BreakerBounds
from enginebay.gateway.pool.pool import ModelPool, PoolBounds
from enginebay.gateway.pool.timeouts import Timeouts
from enginebay.gateway.pool.watch import HealthBounds
from enginebay.gateway.replicas import OwnedReplica, ReplicaSettings, RestartBounds
from enginebay.gateway.routing.registry import make_policy
from enginebay.guard import GuardedBackend
from enginebay.testing import FakeBackend, FakeClock, Pause, Stall
from enginebay.types import Health, HealthState
from enginebay.wire.deadlines import DeadlineWatch

NUM_REQUESTS = 10_000
NUM_CLIENTS = 100
TICK_S = 0.005
"""Everything happens on this grid, so that the fake clock has few instants to go to."""
BOUNDS = PoolBounds(
    max_in_flight=20,
    timeouts=Timeouts(first_token_s=0.1, between_tokens_s=0.05, total_s=2.0),
    admission=AdmissionBounds(max_queued=40, max_wait_s=0.2),
)


class Accounts(GatewayHook):
    """Reserves and settles as limits and ledger do."""

    def __init__(self):
        self.num_reserved = 0
        self.outcomes = {}
        self.num_ends = Counter()

    async def before_routing(self, call):
        self.num_reserved += call.requests[0].sampling.max_tokens

    def at_end(self, call, outcome):
        self.num_reserved -= call.requests[0].sampling.max_tokens
        self.num_ends[call.request_id] += 1
        self.outcomes[call.request_id] = outcome


class Chaos:
    def __init__(self, seed):
        self.rng, self.clock = Random(seed), FakeClock()
        self.watch = DeadlineWatch(self.clock)
        self.log = make_logger(level="critical")
        self.accounts = Accounts()
        self.hooks = Hooks([self.accounts], self.log)
        self.fakes, self.replicas, self.pools = [], [], []
        """All that there ever were."""
        self.calls = []
        self.num_received = Counter()
        self.catalog = Catalog(
            self.content([self.owned(f"r{n}") for n in range(3)]), clock=self.clock, watch=self.watch, log=self.log
        )

    def ticks(self, most):
        return Pause(TICK_S * self.rng.randint(0, most))

    def script(self, request):
        """An answer of which one in three goes wrong somewhere."""
        steps = [self.ticks(4), *(step for chunk in going_on(request) for step in (chunk, self.ticks(1)))]
        if self.rng.random() < 0.67:
            return steps
        faults = (
            [Stall()],
            [EngineDied("killed")],
            [BackendUnavailable("cut")],
            [BackendOverloaded("full", retry_after_s=2 * TICK_S)],
            [UpstreamError("bad gateway", status=502)],
            [UpstreamError("teapot", status=418)],
            [InvalidRequest("refused")],
            [ValueError("malformed event")],
            [],  # an end without a last chunk
        )
        return steps[: self.rng.randint(1, len(steps) - 2)] + self.rng.choice(faults)

    def make(self, name):
        fake = FakeBackend(script=self.script, clock=self.clock, name=name, start_takes_s=2 * TICK_S)
        self.fakes.append(fake)
        return GuardedBackend(fake)

    def owned(self, name):
        owned = OwnedReplica(
            name,
            lambda: self.make(name),
            clock=self.clock,
            watch=self.watch,
            log=self.log,
            rng=self.rng,
            settings=ReplicaSettings(
                breaker=BreakerBounds(open_s=4 * TICK_S, max_open_s=8 * TICK_S),
                health=HealthBounds(period_s=10 * TICK_S, canary_period_s=20 * TICK_S, canary_timeout_s=10 * TICK_S),
                restarts=RestartBounds(min_pause_s=TICK_S, max_pause_s=4 * TICK_S),
            ),
        )
        self.replicas.append(owned.replica)
        return owned

    def content(self, owned):
        versions = {
            "v1": self.version("v1", owned, "least_loaded"),
            "v2": self.version("v2", owned, "prefix_aware"),
            "v3": self.version("v3", owned[:1], "round_robin"),
        }
        alias = Alias(name="m", versions=versions, current="v1")
        return CatalogContent(aliases={"m": alias}, replicas={each.replica.name: each for each in owned})

    def version(self, name, owned, policy):
        pool = ModelPool(
            [each.replica for each in owned],
            make_policy(policy, {}, self.rng),
            hooks=self.hooks,
            clock=self.clock,
            watch=self.watch,
            rng=self.rng,
            bounds=BOUNDS,
        )
        self.pools.append(pool)
        return ModelVersion(name="m", version=name, pool=pool, default_max_tokens=None, created_at_unix=0)

    async def client(self, serials):
        for serial in serials:
            asking = asyncio.create_task(self.ask(f"call {serial}"))
            if self.rng.random() < 0.2:
                await self.clock.sleep_until(self.clock.now() + TICK_S * self.rng.randint(0, 10))
                asking.cancel()
            [ending] = await asyncio.gather(asking, return_exceptions=True)
            assert ending is None or isinstance(ending, EngineBayError | asyncio.CancelledError), repr(ending)

    async def ask(self, request_id):
        max_tokens = self.rng.randint(1, 8)
        request = replace(
            a_request("a prompt " * 50, max_tokens=max_tokens, priority=self.rng.randint(0, 2)), request_id=request_id
        )
        client = Client(address="127.0.0.1")
        model = self.catalog.find("m")
        call = Call(request_id=request_id, client=client, model="m", requests=[request], arrived_at=0.0, body_bytes=1)
        self.calls.append(call)
        reads_slowly = self.rng.random() < 0.1
        passage = Passage(
            call, model, choices_per_prompt=1, hooks=self.hooks, clock=self.clock, is_ending=lambda: False
        )
        with passage:
            [stream] = await passage.admit()
            async with aclosing(stream):
                async for chunk in stream:
                    passage.received(0, chunk)
                    self.num_received[request_id] += len(chunk.token_ids)
                    if reads_slowly:
                        await self.clock.sleep_until(self.clock.now() + 2 * TICK_S)
            passage.finish()

    async def killer(self):
        """Kills an engine, moves the alias, or exchanges the whole content, again and again."""
        while True:
            await self.clock.sleep_until(self.clock.now() + 10 * TICK_S)
            owned = self.rng.choice(list(self.catalog.content.replicas.values()))
            act = self.rng.random()
            if act < 0.5:
                self.kill(owned)
            elif act < 0.8:
                self.catalog.move("m", self.rng.choice(["v1", "v1", "v2", "v3"]))
            else:
                kept = [each for each in self.catalog.content.replicas.values() if each is not owned]
                await self.catalog.exchange(self.content([self.owned(owned.replica.name), *kept]), ready_within_s=5.0)

    def kill(self, owned):
        name = owned.replica.name
        alive = [fake for fake in self.fakes if fake.info.name == name and fake.health_now.state is HealthState.READY]
        for fake in alive:
            fake.health_now = Health(HealthState.DEAD, "killed", is_final=True)

    async def run(self):
        self.catalog.begin()
        await self.catalog.wait_until_ready()
        killing = asyncio.create_task(self.killer())
        serials = iter(range(NUM_REQUESTS))
        await asyncio.gather(*(self.client(serials) for _ in range(NUM_CLIENTS)))
        killing.cancel()
        [ending] = await asyncio.gather(killing, return_exceptions=True)
        assert isinstance(ending, asyncio.CancelledError)


def test_after_chaos_nothing_is_in_flight_reserved_or_running_and_each_call_has_one_true_outcome():
    async def main():
        chaos = Chaos(seed=20)
        await chaos.clock.run(chaos.run())
        assert sum(replica.num_in_flight for replica in chaos.replicas) == 0
        assert sum(replica.backend.metrics.num_in_flight for replica in chaos.replicas) == 0
        assert {(pool.admission.num_inside, pool.admission.num_waiting) for pool in chaos.pools} == {(0, 0)}
        assert chaos.accounts.num_reserved == 0
        await chaos.clock.run(chaos.catalog.end())
        await settled()
        assert sum(fake.num_live_streams for fake in chaos.fakes) == 0
        assert tasks_but_this() == set()
        demand_true_outcomes(chaos)

    asyncio.run(main())


def demand_true_outcomes(chaos):
    accounts = chaos.accounts
    assert len(chaos.calls) >= NUM_REQUESTS * 0.97  # a client may leave before its request is read
    assert accounts.num_ends == Counter({call.request_id: 1 for call in chaos.calls})
    kinds = Counter(outcome.kind for outcome in accounts.outcomes.values())
    assert all(kinds[kind] > 100 for kind in ("finished", "cancelled", "refused", "failed")), kinds
    for call in chaos.calls:
        outcome = accounts.outcomes[call.request_id]
        assert outcome.num_output_tokens == chaos.num_received[call.request_id]
        assert sum(attempt.num_tokens for attempt in call.attempts) == outcome.num_output_tokens
        if outcome.kind == "finished":
            assert outcome.num_output_tokens == call.requests[0].sampling.max_tokens
            assert [attempt.error is None for attempt in call.attempts].count(True) == 1
    errors = [attempt.error for call in chaos.calls for attempt in call.attempts if attempt.error is not None]
    assert all(isinstance(error, EngineBayError) for error in errors)
    resumed = [call for call in chaos.calls if any(attempt.resumed for attempt in call.attempts)]
    finished = [call for call in resumed if accounts.outcomes[call.request_id].kind == "finished"]
    assert len(finished) > 50
