"""The simulated engine: a queue, a batch, KV blocks, steps that take time. It computes words, not a model.

Any number of requests wait; at most `max_num_seqs` run, each holding the blocks of its tokens. A request that does
not fit waits; one that outgrows the free blocks while it runs preempts the youngest, which starts again from its
prompt and all tokens that it had (nothing is repeated to its client).
"""

from __future__ import annotations

import asyncio
import math
from collections import deque

from enginebay.clock import Clock
from enginebay.testing.simulators.engine_metrics import EngineMetrics
from enginebay.testing.simulators.performance import SimulatorProfile
from enginebay.testing.simulators.prefix_cache import PrefixCache
from enginebay.testing.simulators.request import SimulatedRequest

_INSTANT_TOKENS = 128
"""An instant engine gives so many tokens of each request in one turn of the loop."""


class SimulatedEngine:
    """Single-threaded: everything but `run` returns at once, and listeners are called from inside `run`."""

    def __init__(self, profile: SimulatorProfile, clock: Clock, *, seed: int = 0) -> None:
        profile.check()
        self.profile, self.clock = profile, clock
        self.metrics = EngineMetrics()
        self.is_loaded = profile.load_time_s == 0
        self.death_reason: str | None = None
        self.prefix_cache = PrefixCache(profile.num_blocks, profile.block_size)
        self._waiting: deque[SimulatedRequest] = deque()
        self._running: dict[SimulatedRequest, None] = {}
        self._num_free_blocks = profile.num_blocks
        self._drawn_seed = abs(seed)
        self._has_work = asyncio.Event()
        self._loaded = asyncio.Event()
        if self.is_loaded:
            self._loaded.set()

    # ---------------------------------------------------------------- state, for metrics

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_unfinished(self) -> int:
        return len(self._running) + len(self._waiting)

    @property
    def num_tokens_to_prefill(self) -> int:
        """Of all unfinished requests, those that wait with all their tokens."""
        return sum(request.num_to_prefill for request in self._running) + sum(
            request.num_tokens for request in self._waiting
        )

    @property
    def num_used_blocks(self) -> int:
        return self.profile.num_blocks - self._num_free_blocks

    @property
    def kv_usage_ratio(self) -> float:
        return self.num_used_blocks / self.profile.num_blocks

    @property
    def is_full(self) -> bool:
        """One more request would exceed the limit of the queue."""
        limit = self.profile.max_num_queued
        return limit is not None and self.num_unfinished >= limit

    async def wait_loaded(self) -> None:
        await self._loaded.wait()

    # ---------------------------------------------------------------- requests

    def submit(self, request: SimulatedRequest) -> None:
        """Its wire has refused, in the engine's words, what raises ValueError here: nothing of it is kept."""
        if not request.num_prompt_tokens:
            raise ValueError("the prompt is empty")
        if request.sampling.max_tokens < 1:
            raise ValueError(f"max_tokens is {request.sampling.max_tokens}")
        if request.num_prompt_tokens + request.sampling.max_tokens > self.profile.max_model_len:
            raise ValueError("prompt and max_tokens exceed max_model_len")
        self._drawn_seed += 1
        request.begin(-self._drawn_seed)  # negative: no request chooses such a one
        request.arrived_at = self.clock.now()
        self._waiting.append(request)
        self._has_work.set()

    def cancel(self, request: SimulatedRequest) -> None:
        """Its client has gone. Its blocks are free at once; one that has ended is left alone."""
        if request.finish_reason is not None:
            return
        if request in self._running:
            self._leave(request)
        else:
            self._waiting.remove(request)
        self._ended(request, "abort")

    def die(self, reason: str) -> None:
        """Fail all requests. The server around it lives on."""
        self.death_reason = reason
        for request in (*self._running, *self._waiting):
            if request in self._running:
                self._leave(request)
            self._ended(request, "error")
            request.listener.on_failure(request, reason)
        self._waiting.clear()
        self._has_work.clear()

    def revive(self) -> None:
        self.death_reason = None

    # ---------------------------------------------------------------- steps

    async def run(self) -> None:
        """Load, then step while there is work. Ends only by being cancelled."""
        await self._load()
        while True:
            await self._has_work.wait()
            advancing, num_prefilled = self._schedule()
            await self._pass_time(len(advancing), num_prefilled)
            self._compute(advancing, num_prefilled)
            if not self._running and not self._waiting:
                self._has_work.clear()

    async def _load(self) -> None:
        if not self.is_loaded:
            await self.clock.sleep_until(self.clock.now() + self.profile.load_time_s)
            self.is_loaded = True
            self._loaded.set()

    def _schedule(self) -> tuple[list[SimulatedRequest], int]:
        """(the requests that get tokens in this step, the number of prompt tokens that it computes)"""
        self._admit()
        budget = self.profile.max_num_batched_tokens
        advancing: list[SimulatedRequest] = []
        for request in tuple(self._running):
            num_prefilled = min(request.num_to_prefill, budget)
            budget -= num_prefilled
            request.num_to_prefill -= num_prefilled
            if request.num_to_prefill == 0 and self._reserve(request):
                advancing.append(request)
        return advancing, self.profile.max_num_batched_tokens - budget

    def _admit(self) -> None:
        while self._waiting and len(self._running) < self.profile.max_num_seqs:
            request = self._waiting[0]
            num_blocks = self._blocks_of(request.num_tokens)
            if num_blocks > self._num_free_blocks:
                return
            self._waiting.popleft()
            self._num_free_blocks -= num_blocks
            request.num_blocks = num_blocks
            self._running[request] = None
            self._begin_prefill(request)

    def _begin_prefill(self, request: SimulatedRequest) -> None:
        request.num_to_prefill = request.num_tokens
        if self.profile.prefix_caching:
            num_cached = self.prefix_cache.num_cached_tokens(request.prompt_token_ids, request.cache_salt)
            request.num_to_prefill -= num_cached
            if request.scheduled_at is None:
                request.num_cached_tokens = num_cached
                self.metrics.num_prefix_queries += request.num_prompt_tokens
                self.metrics.num_prefix_hits += num_cached
        if request.scheduled_at is None:
            request.scheduled_at = self.clock.now()

    def _reserve(self, request: SimulatedRequest) -> bool:
        """Hold blocks for the tokens of this step; False when it was preempted instead, by itself or before."""
        if request not in self._running:
            return False
        num_blocks = self._blocks_of(request.num_tokens + self._tokens_in_step(request))
        while num_blocks - request.num_blocks > self._num_free_blocks:
            youngest = next(reversed(self._running))
            self._preempt(youngest)
            if youngest is request:
                return False
        self._num_free_blocks -= num_blocks - request.num_blocks
        request.num_blocks = num_blocks
        return True

    def _tokens_in_step(self, request: SimulatedRequest) -> int:
        if self.profile.pace != "instant":
            return 1
        return min(_INSTANT_TOKENS, request.sampling.max_tokens - request.num_output_tokens)

    def _preempt(self, request: SimulatedRequest) -> None:
        self._leave(request)
        request.num_preemptions += 1
        self.metrics.num_preemptions += 1
        self._waiting.appendleft(request)

    def _blocks_of(self, num_tokens: int) -> int:
        return -(-num_tokens // self.profile.block_size)

    async def _pass_time(self, num_sequences: int, num_prefilled: int) -> None:
        profile, now = self.profile, self.clock.now()
        match profile.pace:
            case "instant":
                await asyncio.sleep(0)
            case "paced":
                await self.clock.sleep_until((math.floor(now / profile.tick_s) + 1) * profile.tick_s)
            case "modelled":
                decode_s = profile.decode_step_s + profile.decode_step_per_sequence_s * num_sequences
                await self.clock.sleep_until(now + decode_s + num_prefilled / profile.prefill_tokens_per_s)

    def _compute(self, advancing: list[SimulatedRequest], num_prefilled: int) -> None:
        now, num_output_tokens = self.clock.now(), self.metrics.num_output_tokens
        for request in advancing:
            if request in self._running:  # else its client has gone in the meantime, or it was preempted
                self._advance(request, now)
        metrics = self.metrics
        metrics.num_steps += 1
        metrics.observe("batch_size", len(advancing))
        metrics.observe("step_tokens", num_prefilled + metrics.num_output_tokens - num_output_tokens)

    def _advance(self, request: SimulatedRequest, now: float) -> None:
        profile, listener = self.profile, request.listener
        for _ in range(self._tokens_in_step(request)):
            token = request.next_token(
                min_answer_tokens=profile.min_answer_tokens, end_every_tokens=profile.end_every_tokens
            )
            self._count_token(request, now)
            if token.finish_reason is not None:
                self._finish(request, token.finish_reason, now)
            listener.on_token(request, token)
            if request.finish_reason is not None:  # it has ended, or the listener has cancelled it
                return

    def _count_token(self, request: SimulatedRequest, now: float) -> None:
        metrics = self.metrics
        metrics.num_output_tokens += 1
        if request.first_token_at is None:
            request.first_token_at = now
            metrics.num_prompt_tokens += request.num_prompt_tokens
            metrics.observe("ttft_s", now - request.arrived_at)
            if self.profile.prefix_caching:
                self.prefix_cache.add(request.prompt_token_ids, request.cache_salt)
        else:
            metrics.observe("itl_s", now - request.last_token_at)
        request.last_token_at = now

    # ---------------------------------------------------------------- ends

    def _finish(self, request: SimulatedRequest, reason: str, now: float) -> None:
        self._leave(request)
        self._ended(request, "stop" if reason == "stop" else "length")
        first_at, scheduled_at = request.first_token_at, request.scheduled_at
        assert first_at is not None
        assert scheduled_at is not None
        observe = self.metrics.observe
        observe("e2e_s", now - request.arrived_at)
        observe("queue_s", scheduled_at - request.arrived_at)
        observe("inference_s", now - scheduled_at)
        observe("prefill_s", first_at - scheduled_at)
        observe("decode_s", now - first_at)
        if request.num_output_tokens > 1:
            observe("tpot_s", (now - first_at) / (request.num_output_tokens - 1))
        observe("prompt_tokens", request.num_prompt_tokens)
        observe("prefill_computed_tokens", request.num_prompt_tokens - request.num_cached_tokens)
        observe("output_tokens", request.num_output_tokens)
        observe("max_tokens", request.sampling.max_tokens)
        observe("num_preemptions", request.num_preemptions)

    def _ended(self, request: SimulatedRequest, reason: str) -> None:
        request.finish_reason = reason
        self.metrics.num_finished[reason] += 1  # type: ignore[index]

    def _leave(self, request: SimulatedRequest) -> None:
        del self._running[request]
        self._num_free_blocks += request.num_blocks
        request.num_blocks = 0
