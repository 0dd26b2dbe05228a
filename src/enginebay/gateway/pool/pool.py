"""The replicas of one version of a model, behind one `stream`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from operator import is_
from random import Random

from enginebay.clock import Clock
from enginebay.errors import BackendError, EngineBayError, RequestError, StreamContractViolated
from enginebay.gateway.call import Call, Client
from enginebay.gateway.hooks import Hooks
from enginebay.gateway.pool.admission import Admission, AdmissionBounds
from enginebay.gateway.pool.attempts import Attempts, none_available
from enginebay.gateway.pool.replica import Replica
from enginebay.gateway.pool.retry_budget import RetryBudget
from enginebay.gateway.pool.timeouts import Timeouts, within
from enginebay.gateway.routing.policy import RoutingPolicy
from enginebay.types import BackendInfo, Feature, GenerationChunk, GenerationRequest, Prompt
from enginebay.wire.deadlines import DeadlineWatch

COUNT_TIMEOUT_S = 5.0
"""For the tokens of one prompt; beside generation, it needs none of the engine's slots."""

ChunkStream = AsyncGenerator[GenerationChunk, None]
Fallbacks = Callable[[Client | None], Sequence["ModelPool"]]
"""The pools to try, in order, that this client may use; of None, all."""


def no_fallbacks(client: Client | None) -> Sequence[ModelPool]:
    return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolBounds:
    max_attempts: int = 3
    """Of one choice, in this pool; the first one counts."""
    max_in_flight: int = 256
    """For each available replica; more wait in the queue."""
    retry_ratio: float = 0.2
    """Retries that are allowed for each request, on the average."""
    min_retries_per_s: float = 1.0
    timeouts: Timeouts = field(default_factory=Timeouts)
    admission: AdmissionBounds = field(default_factory=AdmissionBounds)


class ModelPool:
    """fallbacks: asked at each call, which goes there where no replica here can begin to answer it."""

    def __init__(
        self,
        replicas: Sequence[Replica],
        policy: RoutingPolicy,
        *,
        hooks: Hooks,
        clock: Clock,
        watch: DeadlineWatch,
        rng: Random,
        bounds: PoolBounds | None = None,
        fallbacks: Fallbacks = no_fallbacks,
    ) -> None:
        bounds = bounds or PoolBounds()
        self.replicas = tuple(replicas)
        self._bounds, self._clock, self._watch, self._fallbacks = bounds, clock, watch, fallbacks
        self.admission = Admission(
            clock, watch, room=self._room, least_room=bounds.max_in_flight, bounds=bounds.admission
        )
        self.attempts = Attempts(
            self.replicas,
            policy,
            hooks=hooks,
            budget=RetryBudget(
                clock,
                ratio=bounds.retry_ratio,
                min_retries_per_s=bounds.min_retries_per_s,
                max_kept=bounds.max_in_flight,
            ),
            timeouts=bounds.timeouts,
            max_attempts=bounds.max_attempts,
            clock=clock,
            watch=watch,
            rng=rng,
        )
        self._known_infos: list[BackendInfo] = []
        self.num_fallbacks = 0
        """Calls that another pool was asked to answer."""

    @property
    def num_in_flight(self) -> int:
        """Choices inside, also between two attempts and in the queue."""
        return self.admission.num_inside + self.admission.num_waiting

    @property
    def info(self) -> BackendInfo:
        """Of the first replica, with what all of them can do and the shortest of their contexts."""
        if len(self.replicas) == 1:
            return self.replicas[0].backend.info
        infos = [replica.backend.info for replica in self.replicas]
        if not self._known_infos or not all(map(is_, self._known_infos, infos)):
            self._known_infos, self._common_info = infos, _common(infos)  # a replica told something new
        return self._common_info

    def demand_ready(self) -> None:
        """Raises NotStarted or BackendUnavailable as long as no replica was ever ready: nobody knows what it can do.

        Later a request is a call, also where no replica would take it now: it ends as one, with its outcome.
        """
        if not any(replica.was_ready for replica in self.replicas) and not self._fallbacks(None):
            raise none_available(self.replicas)

    def stream(self, call: Call, request: GenerationRequest) -> ChunkStream:
        """One choice of the call: it waits for room, and goes on through errors as long as its client can't tell.

        No work begins before the first `__anext__`; one task consumes it; to end it early, cancel that task.
        """
        fallbacks = self._fallbacks(call.client)
        return self._with_fallbacks(call, request, fallbacks) if fallbacks else self._here(call, request)

    async def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        """By the first replica that answers in time. Raises the error of the last one that did not."""
        failure: EngineBayError | None = None
        for replica in self.replicas:
            if not replica.is_available():
                continue
            counts = replica.backend.count_tokens(prompt)
            try:
                return await within(COUNT_TIMEOUT_S, counts, who=replica.name, clock=self._clock, watch=self._watch)
            except BackendError as error:
                failure = error
        raise failure or none_available(self.replicas)

    async def _here(self, call: Call, request: GenerationRequest) -> ChunkStream:
        await self.admission.enter(request)
        entered_at = self._clock.now()
        try:
            async with aclosing(self.attempts.run(call, request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            self.admission.leave(took_s=self._clock.now() - entered_at)

    async def _with_fallbacks(
        self, call: Call, request: GenerationRequest, fallbacks: Sequence[ModelPool]
    ) -> ChunkStream:
        """What a fallback refuses, because it can't do what its forerunner can, is told as the forerunner's failure."""
        has_begun = False
        failure: EngineBayError | None = None
        for pool in (self, *fallbacks):
            try:
                async with aclosing(pool._here(call, request)) as chunks:
                    async for chunk in chunks:
                        has_begun = True
                        yield chunk
                return
            except RequestError:
                if failure is None:
                    raise
            except (BackendError, StreamContractViolated) as error:
                if has_begun:
                    raise
                failure = failure or error
            self.num_fallbacks += pool is self
        assert failure is not None
        raise failure

    def _room(self) -> int:
        """Where none is available the one that is let in is told why."""
        return self._bounds.max_in_flight * max(1, sum(replica.is_available() for replica in self.replicas))


def _common(infos: Sequence[BackendInfo]) -> BackendInfo:
    features = frozenset[Feature].intersection(*(info.capabilities.features for info in infos))
    capabilities = replace(
        infos[0].capabilities,
        features=features,
        max_logprobs=_least([info.capabilities.max_logprobs for info in infos]),
        max_stop_strings=_least([info.capabilities.max_stop_strings for info in infos]),
        max_temperature=_least([info.capabilities.max_temperature for info in infos]),
    )
    return replace(
        infos[0],
        capabilities=capabilities,
        max_model_len=_least([info.max_model_len for info in infos]),
        simulated=any(info.simulated for info in infos),
    )


def _least(limits: Sequence[float | None]) -> int | None:
    """None is no limit."""
    known = [limit for limit in limits if limit is not None]
    return min(known, default=None)  # pyright: ignore[reportReturnType] - whole numbers stay whole
