"""GET /metrics of trtllm-serve: a JSON list with one entry for each iteration, which every read empties.

So there is one reader for each backend, which adds up what is counted; nothing else here reads that path.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec

from enginebay.backends.http_engine.api import PROBE_TIMEOUT_S
from enginebay.errors import UpstreamError
from enginebay.types import EngineStats
from enginebay.wire.http_client import HttpClient

PATH = "/metrics"


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


class IterationStats:
    """The one reader. Counts begin with its first read: what came before it is unknown."""

    def __init__(self, *, backend: str) -> None:
        self._backend = backend
        self._lock = asyncio.Lock()
        self._num_reads = 0
        self._last: Iteration | None = None
        self._is_idle = False
        self._num_drafted: int | None = None
        self._num_accepted: int | None = None

    async def read(self, http: HttpClient, *, is_sole_reader: bool) -> EngineStats:
        """Callers that wait for a read in progress share its result: two reads would share the entries.

        is_sole_reader: the server itself does not read too, so that no entries means that nothing was computed.
        """
        num_reads = self._num_reads
        async with self._lock:
            if self._num_reads == num_reads:
                # With nothing queued the server itself waits up to two seconds.
                response = await http.request("GET", PATH, timeout_s=PROBE_TIMEOUT_S)
                if response.status == 200:
                    self.add(response.body, is_sole_reader=is_sole_reader)
                self._num_reads += 1
        return self.stats()

    def add(self, body: bytes, *, is_sole_reader: bool = True) -> None:
        """Raises UpstreamError for an answer that is not understood."""
        try:
            iterations = _decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UpstreamError(f"{PATH} has no iteration statistics: {error}", backend=self._backend) from error
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
