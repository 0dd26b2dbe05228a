"""Starts what the gateway owns, and starts it again when it has died."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from random import Random
from weakref import WeakSet

from structlog.typing import FilteringBoundLogger

from enginebay.clock import Clock
from enginebay.errors import BackendError, EngineBayError, EngineDied, NotStarted
from enginebay.gateway.pool.breaker import Breaker, BreakerBounds
from enginebay.gateway.pool.pool import ModelPool
from enginebay.gateway.pool.replica import Replica, ReplicaState
from enginebay.gateway.pool.watch import HealthBounds, ReplicaWatch
from enginebay.guard import GuardedBackend
from enginebay.monitoring import InstrumentedBackend, instrument
from enginebay.types import BackendInfo, EngineStats, GenerationChunk, GenerationRequest, Health, Prompt
from enginebay.wire.deadlines import DeadlineWatch


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartBounds:
    """A pause before each new start, doubled while starts keep failing."""

    min_pause_s: float = 1.0
    max_pause_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSettings:
    """How a replica is treated; its engine knows nothing of them, so they change while it runs."""

    weight: float = 1.0
    breaker: BreakerBounds = field(default_factory=BreakerBounds)
    health: HealthBounds = field(default_factory=HealthBounds)
    restarts: RestartBounds = field(default_factory=RestartBounds)


class CurrentBackend:
    """A `Backend` whose engine may be exchanged: backends are single use, a replica is not."""

    def __init__(self, make: Callable[[], GuardedBackend]) -> None:
        """make: a new backend, not started. Raises what its config or plugin is wrong with, here for the first."""
        self._make = make
        self._backend = make()
        self._is_used = False

    @property
    def info(self) -> BackendInfo:
        return self._backend.info

    async def start(self) -> None:
        if self._is_used:
            self._backend = self._make()
        self._is_used = True
        await self._backend.start()

    def generate(self, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        return self._backend.generate(request)

    async def health(self) -> Health:
        return await self._backend.health()

    async def stats(self) -> EngineStats:
        return await self._backend.stats()

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        return await self._backend.count_tokens(prompt)

    async def reset_prefix_cache(self) -> None:
        await self._backend.reset_prefix_cache()

    async def aclose(self) -> None:
        await self._backend.aclose()


class OwnedReplica:
    """A replica with its life: `begin`, then started, watched and started again until `end`.

    One that is only reached (mode `external`) lives the same: to start is then to reach and to probe it.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[], GuardedBackend],
        *,
        clock: Clock,
        watch: DeadlineWatch,
        log: FilteringBoundLogger,
        rng: Random,
        identity: object = None,
        must_start: bool = False,
        settings: ReplicaSettings | None = None,
    ) -> None:
        """identity: equal for two whose engines are configured alike. must_start: the first start of an engine that we
        start ourselves fails for good, since its config or this machine is at fault; a server elsewhere may come up
        yet."""
        settings = settings or ReplicaSettings()
        self._current = CurrentBackend(make)
        self.backend: InstrumentedBackend = instrument(self._current, clock=clock, replica=name)
        self.replica = Replica(name, self.backend, clock=clock, breaker=Breaker(clock, settings.breaker))
        self._watch = ReplicaWatch(self.replica, self._current, clock=clock, watch=watch, log=log, on_dead=self._died)
        self._clock, self._log, self._rng, self.identity = clock, log, rng, identity
        self.must_start = must_start
        self.pools: WeakSet[ModelPool] = WeakSet()
        """That it serves in, also those of a config before this one."""
        self._task: asyncio.Task[None] | None = None
        self._was_ready = asyncio.Event()
        self.failure: EngineBayError | None = None
        """Of the last start; None once one succeeded."""
        self.num_starts = 0
        self.adopt(settings)

    def adopt(self, settings: ReplicaSettings) -> None:
        """From now on; the engine goes on as it is."""
        self.replica.weight = settings.weight
        self.replica.breaker.adopt(settings.breaker)
        self._watch.bounds = settings.health
        self._restarts = settings.restarts

    def begin(self) -> None:
        self._task = asyncio.create_task(self._live(), name=f"replica {self.replica.name}")

    def is_awaited(self) -> bool:
        """Whether it must start and has not yet, for the first time. Raises what that start failed with."""
        if not self.must_start or self._was_ready.is_set():
            return False
        if self.failure is not None:
            raise self.failure.with_traceback(None)
        return True

    async def end(self) -> None:
        """What runs there is cut off: let it drain before."""
        self.replica.became(ReplicaState.DEAD, "the server ends")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._current.aclose()

    async def _live(self) -> None:
        num_failures = 0
        while True:
            if await self._start():
                num_failures = 0
                await self._watch.run()
            else:
                num_failures += 1
            await self._close()
            await self._clock.sleep_until(self._clock.now() + self._pause_s(num_failures))

    async def _start(self) -> bool:
        replica = self.replica
        replica.became(ReplicaState.LOADING, "the model is loading")
        self.num_starts += 1
        try:
            await self._current.start()
        except EngineBayError as error:
            self.failure = error
        except Exception as error:  # noqa: BLE001 - kept, and told by health and every request
            self.failure = BackendError(f"start failed: {error!r}", backend=replica.name)
            self.failure.__cause__ = error
        else:
            self.failure = None
            replica.breaker.reset()
            replica.last_token_at = self._clock.now()
            replica.became(ReplicaState.READY)
            self._log.info("replica ready", replica=replica.name)
            self._was_ready.set()
            for pool in self.pools:
                pool.admission.wake()
            return True
        replica.became(ReplicaState.DEAD, f"start failed: {str(self.failure).splitlines()[0]}")
        self._log.error("replica failed to start", replica=replica.name, reason=str(self.failure))
        return False

    def _died(self, reason: str) -> None:
        name = self.replica.name
        self.replica.abandon_all(EngineDied(f"the engine of replica {name!r} died: {reason}", backend=name))

    async def _close(self) -> None:
        try:
            await self._current.aclose()
        except EngineBayError as error:
            self._log.error("replica failed to close", replica=self.replica.name, reason=str(error))

    def _pause_s(self, num_failures: int) -> float:
        """Drawn from the upper half, so that replicas that died together don't start together."""
        most = min(self._restarts.max_pause_s, self._restarts.min_pause_s * 2**num_failures)
        return most * (0.5 + 0.5 * self._rng.random())

    def demand_ready(self) -> None:
        """Raises what the last start failed with, or NotStarted."""
        if self.failure is not None:
            raise self.failure.with_traceback(None)
        if self.replica.state is ReplicaState.LOADING:
            raise NotStarted("the model is still loading: try again soon", backend=self.replica.name)
