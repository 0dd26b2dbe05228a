"""The one loop of attempts: nothing else in the gateway sends a request twice."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from random import Random

from enginebay.clock import Clock
from enginebay.errors import BackendOverloaded, BackendTimeout, BackendUnavailable, EngineBayError, NotStarted
from enginebay.gateway.call import Attempt, Call
from enginebay.gateway.hooks import Hooks
from enginebay.gateway.pool.failover import Progress, exactness
from enginebay.gateway.pool.faults import is_word_of_engine, may_work_elsewhere
from enginebay.gateway.pool.replica import Replica, ReplicaState, Use
from enginebay.gateway.pool.retry_budget import RetryBudget
from enginebay.gateway.pool.timeouts import TimedStream, Timeouts
from enginebay.gateway.routing.policy import RoutingPolicy
from enginebay.types import Feature, GenerationChunk, GenerationRequest
from enginebay.wire.deadlines import DeadlineWatch

BACKOFF_S = 0.05
MAX_BACKOFF_S = 1.0
_RESUMES_NOISE = frozenset({Feature.RESUME, Feature.SEED})


class Attempts:
    """Sends a request to a replica; where that fails, to another, as long as nobody can see that it did.

    Before the first token it begins again. After it, it goes on from the tokens that were delivered, in a replica
    that can; where none can, the error is the client's to see.
    """

    def __init__(
        self,
        replicas: Sequence[Replica],
        policy: RoutingPolicy,
        *,
        hooks: Hooks,
        budget: RetryBudget,
        timeouts: Timeouts,
        max_attempts: int,
        clock: Clock,
        watch: DeadlineWatch,
        rng: Random,
    ) -> None:
        self._replicas, self._policy, self._hooks, self._budget = replicas, policy, hooks, budget
        self._timeouts, self._max_attempts = timeouts, max_attempts
        self._clock, self._watch, self._rng = clock, watch, rng
        self.num_retries = 0
        self.num_failovers = 0

    async def run(self, call: Call, request: GenerationRequest) -> AsyncGenerator[GenerationChunk, None]:
        """Raises the error of the last attempt, or BackendUnavailable or NotStarted where none could be made."""
        progress = Progress(self._seeded(request))
        total_at = self._clock.now() + self._timeouts.total_s
        failed: list[Replica] = []
        blamed: list[Use] = []
        self._budget.request_began()
        replica = self._choose(call, progress.request, self._available())
        while True:
            attempt = self._begin(call, replica, failed, progress)
            try:
                async with aclosing(self._one(replica, progress.request, attempt, blamed, total_at)) as chunks:
                    async for chunk in chunks:
                        yield progress.taken(chunk)
                return
            except EngineBayError as error:
                attempt.error = failure = error
            failed.append(replica)
            replica = self._next(call, progress, failed, failure, total_at)
            if replica in failed:
                await self._rest(len(failed))
                if not replica.is_available():
                    raise failure

    def _seeded(self, request: GenerationRequest) -> GenerationRequest:
        """A seed for one that has none: what goes on elsewhere then goes on with the same noise."""
        sampling = request.sampling
        if sampling.seed is not None or sampling.temperature == 0 or len(self._replicas) == 1:
            return request
        if any(not replica.backend.info.capabilities.features >= _RESUMES_NOISE for replica in self._replicas):
            return request
        return replace(request, sampling=replace(sampling, seed=self._rng.getrandbits(31)))

    async def _one(
        self, replica: Replica, request: GenerationRequest, attempt: Attempt, blamed: list[Use], total_at: float
    ) -> AsyncGenerator[GenerationChunk, None]:
        """One attempt. In flight from here until nothing of it runs in the replica, however it ends.

        blamed: for earlier attempts, by an engine's own word. It is not blamed twice, nor a second one beside it: a
        request at which every engine fails would else take all of them from everybody.
        """
        use = replica.use()
        stream: TimedStream | None = None
        try:
            stream = TimedStream(
                replica.backend.generate(request),
                self._timeouts,
                replica=replica.name,
                watch=self._watch,
                clock=self._clock,
                total_at=total_at,
                is_streamed=request.delivery == "stream",
            )
            replica.began(stream)
            async for chunk in stream:
                if num_tokens := _num_tokens(chunk):
                    attempt.num_tokens += num_tokens
                    replica.last_token_at = chunk.received_at
                    use.worked()
                yield chunk
            use.worked()
        except EngineBayError as error:
            is_out_of_time = stream is not None and isinstance(error, BackendTimeout) and stream.has_run_out()
            if blamed and is_word_of_engine(error):
                blamed[0].take_back(replica)
            elif not is_out_of_time:
                use.failed(error)
                blamed += [use] if is_word_of_engine(error) else []
            raise
        finally:
            use.end()
            if stream is not None:
                replica.ended(stream)
                await stream.aclose()  # never waits
                self._policy.released(replica)

    def _begin(self, call: Call, replica: Replica, failed: Sequence[Replica], progress: Progress) -> Attempt:
        attempt = Attempt(replica.name, self._clock.now())
        if progress.has_begun and failed:
            attempt.resumed = exactness(progress.request, failed[-1], replica)
        call.attempts.append(attempt)
        for before_engine in self._hooks.before_engine:
            before_engine(call, attempt)
        return attempt

    def _next(
        self, call: Call, progress: Progress, failed: Sequence[Replica], error: EngineBayError, total_at: float
    ) -> Replica:
        """Where to go on after this error; raises it where that is nowhere."""
        if not may_work_elsewhere(error) or len(failed) >= self._max_attempts or self._clock.now() >= total_at:
            raise error
        candidates = self._available()
        if progress.has_begun:
            candidates = [replica for replica in candidates if progress.can_go_on_in(replica)]
        candidates = [replica for replica in candidates if replica not in failed] or candidates
        if not candidates or not self._budget.take():
            raise error
        progress.go_on()
        self.num_failovers += progress.has_begun
        self.num_retries += not progress.has_begun
        return self._choose(call, progress.request, candidates)

    def _available(self) -> list[Replica]:
        return [replica for replica in self._replicas if replica.is_available()]

    def _choose(self, call: Call, request: GenerationRequest, candidates: Sequence[Replica]) -> Replica:
        if not candidates:
            raise none_available(self._replicas)
        return candidates[0] if len(self._replicas) == 1 else self._policy.choose(call, request, candidates)

    async def _rest(self, num_failures: int) -> None:
        """Drawn, so that requests that failed together don't come back together."""
        backoff_s = self._rng.random() * min(MAX_BACKOFF_S, BACKOFF_S * 2**num_failures)
        await self._clock.sleep_until(self._clock.now() + backoff_s)


def none_available(replicas: Sequence[Replica]) -> EngineBayError:
    reasons = "; ".join(replica.why_not() for replica in replicas)
    if replicas and all(replica.state is ReplicaState.LOADING for replica in replicas):
        return NotStarted(f"the model is still loading ({reasons}): try again soon")
    if waits_s := [replica.cools_s for replica in replicas if replica.is_sound()]:
        return BackendOverloaded(f"every engine is full ({reasons}): try again later", retry_after_s=min(waits_s))
    return BackendUnavailable(f"no replica is available ({reasons}): try again later")


def _num_tokens(chunk: GenerationChunk) -> int:
    if chunk.num_tokens is not None:
        return chunk.num_tokens
    return len(chunk.token_ids or ()) or bool(chunk.text)
