"""Looks after a replica beside its requests: its own word on its health, and whether one token really comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from structlog.typing import FilteringBoundLogger

from enginebay.backend import Backend
from enginebay.clock import Clock
from enginebay.errors import BackendOverloaded, BackendUnavailable, EngineBayError
from enginebay.gateway.pool.replica import Replica, ReplicaState
from enginebay.gateway.pool.timeouts import within
from enginebay.types import (
    Chat,
    Feature,
    GenerationRequest,
    Health,
    HealthState,
    Message,
    Prompt,
    SamplingParams,
    Text,
    TokenIds,
)
from enginebay.wire.deadlines import DeadlineWatch

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthBounds:
    period_s: float = 2.0
    timeout_s: float = 2.0
    canary_period_s: float = 15.0
    """A replica that said nothing for so long is asked for one token; one that talks needs no such proof."""
    canary_timeout_s: float = 15.0
    num_failures: int = 2
    """Checks in a row of one kind."""
    num_canaries_before_restart: int | None = None
    """Failed ones in a row after which it counts as dead; None is never: it is not ours to start again."""


class ReplicaWatch:
    """Health never goes through the data path, so a burst of requests can't starve it; the canary does, on purpose.

    An engine whose front end answers while its core is dead passes the first and fails the second: then what waits
    for it is ended at once, with an error after which it can go on elsewhere.
    """

    def __init__(
        self,
        replica: Replica,
        backend: Backend,
        *,
        clock: Clock,
        watch: DeadlineWatch,
        log: FilteringBoundLogger,
        on_dead: Callable[[str], None],
        bounds: HealthBounds | None = None,
    ) -> None:
        """backend: the replica's own, without the wrapper that counts clients' requests. on_dead: with the reason."""
        self._replica, self._backend = replica, backend
        self.bounds = bounds or HealthBounds()
        """May be exchanged while it runs: the next check knows the new ones."""
        self._clock, self._watch, self._log, self._on_dead = clock, watch, log, on_dead
        self._serials = count()
        self._num_failed_checks = 0
        self._num_failed_canaries = 0

    async def run(self) -> None:
        """Until cancelled, or until it told that the replica is dead. From the moment that it is ready on."""
        self._num_failed_checks = self._num_failed_canaries = 0
        async with asyncio.TaskGroup() as group:
            canaries = group.create_task(self._send_canaries(), name=f"canary {self._replica.name}")
            await self._check_health()
            canaries.cancel()

    async def _check_health(self) -> None:
        while True:
            health = await self._health()
            if health.is_final or self._is_given_up():
                self._dead(health.reason if health.is_final else self._replica.reason)
                return
            is_bad = health.state in (HealthState.DEAD, HealthState.LOADING)
            self._num_failed_checks = self._num_failed_checks + 1 if is_bad else 0
            self._judge(health.reason)
            await self._clock.sleep_until(self._clock.now() + self.bounds.period_s)

    async def _health(self) -> Health:
        try:
            return await self._within(self._backend.health(), self.bounds.timeout_s)
        except EngineBayError as error:
            return Health(HealthState.DEAD, str(error).splitlines()[0])

    async def _send_canaries(self) -> None:
        replica = self._replica
        while True:
            bounds = self.bounds
            await self._clock.sleep_until(replica.last_token_at + bounds.canary_period_s)
            if self._clock.now() < replica.last_token_at + bounds.canary_period_s:
                continue
            problem = await self._canary_problem()
            self._num_failed_canaries = 0 if problem is None else self._num_failed_canaries + 1
            self._judge(problem or "")
            pause_s = bounds.canary_period_s if problem is None else bounds.period_s
            await self._clock.sleep_until(self._clock.now() + pause_s)

    async def _canary_problem(self) -> str | None:
        """None where a token came, or the engine is too busy to make this one: it says so, or makes others.

        Others are seen as they come, or by the engine's own count: answers in one piece show nothing until their end.
        """
        began_at, num_before = self._clock.now(), await self._num_made()
        try:
            await self._within(self._one_token(), self.bounds.canary_timeout_s)
        except BackendOverloaded:
            return None
        except EngineBayError as error:
            if self._replica.last_token_at > began_at or await self._has_made_more(num_before):
                return None
            return f"no token came out: {str(error).splitlines()[0]}"
        return None

    async def _has_made_more(self, num_before: float | None) -> bool:
        num_now = await self._num_made()
        return num_before is not None and num_now is not None and num_now > num_before

    async def _num_made(self) -> float | None:
        """Tokens that the engine has made so far, as it says; None where it does not, or cannot be asked."""
        try:
            stats = await self._within(self._backend.stats(), self.bounds.timeout_s)
        except EngineBayError:
            return None
        return stats.generation_tokens_total

    async def _one_token(self) -> None:
        request = canary_request(f"canary-{self._replica.name}-{next(self._serials)}", self._backend)
        async with aclosing(self._backend.generate(request)) as stream:
            async for _ in stream:
                self._replica.last_token_at = self._clock.now()

    def _is_given_up(self) -> bool:
        most = self.bounds.num_canaries_before_restart
        return most is not None and self._num_failed_canaries >= most

    def _judge(self, reason: str) -> None:
        replica, most = self._replica, self.bounds.num_failures
        is_stuck = self._num_failed_canaries >= most
        is_bad = is_stuck or self._num_failed_checks >= most
        if is_bad and replica.state is ReplicaState.READY:
            self._log.error("replica is unhealthy", replica=replica.name, reason=reason)
            replica.became(ReplicaState.UNHEALTHY, reason)
        elif not is_bad and replica.state is ReplicaState.UNHEALTHY:
            self._log.info("replica is healthy again", replica=replica.name)
            replica.became(ReplicaState.READY)
        if is_stuck:
            replica.abandon_all(
                BackendUnavailable(f"replica {replica.name!r} is stuck: {reason}", backend=replica.name)
            )

    def _dead(self, reason: str) -> None:
        self._log.error("replica is dead", replica=self._replica.name, reason=reason)
        self._replica.became(ReplicaState.DEAD, reason)
        self._on_dead(reason)

    async def _within(self, waits: Awaitable[T], timeout_s: float) -> T:
        return await within(timeout_s, waits, who=self._replica.name, clock=self._clock, watch=self._watch)


def canary_request(request_id: str, backend: Backend) -> GenerationRequest:
    """The least work that goes through the whole engine."""
    return GenerationRequest(
        request_id=request_id,
        prompt=_prompt(backend.info.capabilities.features),
        sampling=SamplingParams(max_tokens=1, temperature=0.0),
    )


def _prompt(features: frozenset[Feature]) -> Prompt:
    if Feature.TEXT_PROMPT in features:
        return Text("Hello")
    if Feature.CHAT in features:
        return Chat((Message("user", "Hello"),))
    return TokenIds((1,))
