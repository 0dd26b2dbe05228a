"""A pool over fake backends, started and ready, with nothing beside it that could hide a leak."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from random import Random

from enginebay.clock import Clock
from enginebay.gateway.call import Call, Client
from enginebay.gateway.hooks import GatewayHook, Hooks
from enginebay.gateway.logs import make_logger
from enginebay.gateway.pool.breaker import Breaker, BreakerBounds
from enginebay.gateway.pool.pool import Fallbacks, ModelPool, PoolBounds, no_fallbacks
from enginebay.gateway.pool.replica import Replica, ReplicaState
from enginebay.gateway.routing.policy import RoutingPolicy
from enginebay.gateway.routing.registry import make_policy
from enginebay.guard import GuardedBackend
from enginebay.monitoring import instrument
from enginebay.testing import FakeBackend, FakeClock, Pause, Stall, Step
from enginebay.types import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    PromptEcho,
    SamplingParams,
    Text,
    Usage,
)
from enginebay.wire.deadlines import DeadlineWatch

Script = Callable[[GenerationRequest], Iterable[Step]]


def a_request(prompt: str = "a b c", *, max_tokens: int = 4, temperature: float = 0.0, **others) -> GenerationRequest:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature)
    return GenerationRequest(request_id="r", prompt=Text(prompt), sampling=sampling, **others)


def a_call(request: GenerationRequest, *, now: float = 0.0) -> Call:
    client = Client(address="127.0.0.1")
    return Call(request_id="r", client=client, model="m", requests=[request], arrived_at=now, body_bytes=10)


def token(index: int) -> GenerationChunk:
    return GenerationChunk(text=f" t{index}", token_ids=(index,), num_tokens=1, received_at=0.0)


def going_on(request: GenerationRequest) -> list[Step]:
    """What say_tokens says, from the token on that the request resumes at."""
    num_done, total = len(request.resume_token_ids), request.sampling.max_tokens
    *steps, last = [token(index) for index in range(num_done, total)]
    usage = Usage(3, total - num_done)
    first = replace((steps or [last])[0], prompt=PromptEcho((7, 8, 9)))
    last = replace(last if steps else first, finish_reason=FinishReason.LENGTH, usage=usage)
    return [*([first, *steps[1:]] if steps else []), last]


def broken_after(num_tokens: int, error: Exception) -> Script:
    return lambda request: [*going_on(request)[:num_tokens], error]


def stalled_after(num_tokens: int) -> Script:
    return lambda request: [*going_on(request)[:num_tokens], Stall()]


def paused(duration_s: float) -> Script:
    return lambda request: [Pause(duration_s), *going_on(request)]


@dataclass
class FakePool:
    pool: ModelPool
    replicas: Sequence[Replica]
    fakes: Sequence[FakeBackend]
    watch: DeadlineWatch

    async def ask(self, request: GenerationRequest, call: Call | None = None) -> list[GenerationChunk]:
        call = call or a_call(request)
        async with aclosing(self.pool.stream(call, request)) as chunks:
            return [chunk async for chunk in chunks]

    def demand_nothing_left(self) -> None:
        """Of all that is counted anywhere."""
        assert [replica.num_in_flight for replica in self.replicas] == [0] * len(self.replicas)
        assert [fake.num_live_streams for fake in self.fakes] == [0] * len(self.fakes)
        assert [replica.backend.metrics.num_in_flight for replica in self.replicas] == [0] * len(self.replicas)
        assert (self.pool.admission.num_inside, self.pool.admission.num_waiting) == (0, 0)
        self.watch.close()


async def a_pool(
    *scripts: Script,
    clock: Clock | None = None,
    policy: str | RoutingPolicy = "round_robin",
    bounds: PoolBounds | None = None,
    breaker: BreakerBounds | None = None,
    hooks: Sequence[GatewayHook] = (),
    fallbacks: Fallbacks = no_fallbacks,
    settings: Sequence[dict[str, object]] = (),
    **fake_options,
) -> FakePool:
    """One replica for each script, called r0, r1, ..."""
    clock = clock or FakeClock()
    watch = DeadlineWatch(clock)
    fakes = [FakeBackend(script=script, clock=clock, name=f"r{n}", **fake_options) for n, script in enumerate(scripts)]
    for fake, effective in zip(fakes, settings, strict=False):
        fake.info = replace(fake.info, effective_settings=effective)
    replicas = [await _started(fake, clock, breaker) for fake in fakes]
    chosen_by = make_policy(policy, {}, Random(1)) if isinstance(policy, str) else policy
    pool = ModelPool(
        replicas,
        chosen_by,
        hooks=Hooks(hooks, make_logger()),
        clock=clock,
        watch=watch,
        rng=Random(2),
        bounds=bounds,
        fallbacks=fallbacks,
    )
    return FakePool(pool, replicas, fakes, watch)


async def _started(fake: FakeBackend, clock: Clock, breaker: BreakerBounds | None) -> Replica:
    backend = instrument(GuardedBackend(fake), clock=clock)
    await backend.start()
    replica = Replica(fake.info.name, backend, clock=clock, breaker=Breaker(clock, breaker))
    replica.became(ReplicaState.READY)
    return replica


def text_of(chunks: Sequence[GenerationChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


async def settled() -> None:
    """Everything that can run without the clock has run."""
    for _ in range(50):
        await asyncio.sleep(0)


def tasks_but_this() -> set[asyncio.Task]:
    return asyncio.all_tasks() - {asyncio.current_task()}
