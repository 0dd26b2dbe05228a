"""Statistics of single iterations, added up. Both trtllm-serve and the `LLM` object give them, each entry once."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from enginebay.errors import UpstreamError
from enginebay.types import EngineStats


class CacheStats(msgspec.Struct, rename="camel"):
    max_num_blocks: int
    used_num_blocks: int
    cache_hit_rate: float


class BatchingStats(msgspec.Struct, rename="camel"):
    num_scheduled_requests: int


class SpeculationStats(msgspec.Struct, rename="camel"):
    num_draft_tokens: int
    num_accepted_tokens: int


class Iteration(msgspec.Struct, rename="camel"):
    """A name that is missing is an error: a renamed one must not pass for zero."""

    num_active_requests: int
    num_queued_requests: int
    gpu_mem_usage: float
    kv_cache_stats: CacheStats | None
    inflight_batching_stats: BatchingStats | None
    spec_decoding_stats: SpeculationStats | None


_decoder = msgspec.json.Decoder(list[Iteration])


class IterationCounts:
    """Counts begin with the first entry that is added: what came before it is unknown."""

    def __init__(self, *, backend: str) -> None:
        self._backend = backend
        self._last: Iteration | None = None
        self._is_idle = False
        self._num_drafted: int | None = None
        self._num_accepted: int | None = None

    def add(self, body: bytes, *, is_sole_reader: bool = True) -> None:
        """Raises UpstreamError for an answer that is not understood."""
        try:
            iterations = _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamError(f"these are no iteration statistics: {error}", backend=self._backend) from error
        self._is_idle = not iterations and is_sole_reader
        for iteration in iterations:
            self._last = iteration
            if (speculation := iteration.spec_decoding_stats) is not None:
                self._num_drafted = (self._num_drafted or 0) + speculation.num_draft_tokens
                self._num_accepted = (self._num_accepted or 0) + speculation.num_accepted_tokens

    def stats(self) -> EngineStats:
        """None of it where no iteration was ever seen: statistics may be switched off."""
        last = self._last
        if last is None:
            return EngineStats()
        batching = last.inflight_batching_stats
        stats = EngineStats(
            requests_running=last.num_active_requests,
            requests_waiting=last.num_queued_requests,
            batch_size=None if batching is None else batching.num_scheduled_requests,
            kv_cache_usage_ratio=_usage(last.kv_cache_stats),
            prefix_cache_hit_ratio=None if last.kv_cache_stats is None else last.kv_cache_stats.cache_hit_rate,
            gpu_memory_bytes=last.gpu_mem_usage,
            spec_decode_accepted_tokens_total=self._num_accepted,
            spec_decode_drafted_tokens_total=self._num_drafted,
        )
        if self._is_idle:
            # The last iteration is the one that finished the last request, which it still counts.
            return replace(stats, requests_running=0.0, requests_waiting=0.0, batch_size=0.0)
        return stats


def _usage(cache: CacheStats | None) -> float | None:
    return None if cache is None or cache.max_num_blocks == 0 else cache.used_num_blocks / cache.max_num_blocks
