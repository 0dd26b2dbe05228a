"""The statistics of every step, as GET /metrics gives them: once."""

from __future__ import annotations

from collections import deque

from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.engine_metrics import EngineMetrics, Observed
from enginebay.testing.simulators.openai_answer import Json

_NUM_KEPT = 1000
_GPU_BYTES = 64 * 1024**3


class IterationMetrics(EngineMetrics):
    """The engine's counters, and one entry for each of its steps."""

    def __init__(self, engine: SimulatedEngine) -> None:
        super().__init__()
        self._engine = engine
        self._entries: deque[Json] = deque(maxlen=_NUM_KEPT)
        self._num_finished_before = 0

    def drain(self) -> list[Json]:
        entries = list(self._entries)
        self._entries.clear()
        return entries

    def observe(self, observed: Observed, value: float) -> None:
        super().observe(observed, value)
        if observed == "batch_size":
            self._entries.append(self._entry(int(value)))

    def _entry(self, num_scheduled: int) -> Json:
        engine, profile = self._engine, self._engine.profile
        num_finished = sum(self.num_finished.values())
        num_completed = num_finished - self._num_finished_before
        self._num_finished_before = num_finished
        hit_ratio = self.num_prefix_hits / self.num_prefix_queries if self.num_prefix_queries else 0.0
        return {
            "timestamp": f"{engine.clock.now():.6f}",
            "iter": self.num_steps,
            "iterLatencyMS": 0.0,
            "newActiveRequestsQueueLatencyMS": 0.0,
            "numActiveRequests": max(engine.num_running, num_scheduled),
            "numQueuedRequests": engine.num_waiting,
            "numCompletedRequests": num_completed,
            "maxNumActiveRequests": profile.max_num_seqs,
            "maxBatchSizeStatic": profile.max_num_seqs,
            "maxBatchSizeRuntime": profile.max_num_seqs,
            "maxNumTokensRuntime": profile.max_num_batched_tokens,
            "gpuMemUsage": _GPU_BYTES,
            "cpuMemUsage": 0,
            "pinnedMemUsage": 0,
            "kvCacheStats": {
                "maxNumBlocks": profile.num_blocks,
                "freeNumBlocks": profile.num_blocks - engine.num_used_blocks,
                "usedNumBlocks": engine.num_used_blocks,
                "tokensPerBlock": profile.block_size,
                "reusedBlocks": self.num_prefix_hits // profile.block_size,
                "missedBlocks": (self.num_prefix_queries - self.num_prefix_hits) // profile.block_size,
                "cacheHitRate": hit_ratio,
            },
            "inflightBatchingStats": {
                "numScheduledRequests": num_scheduled,
                "numContextRequests": 0,
                "numGenRequests": num_scheduled,
                "numPausedRequests": 0,
                "numCtxTokens": 0,
                "avgNumDecodedTokensPerIter": 1.0,
            },
            "specDecodingStats": None,
        }
