"""GET /prometheus/metrics in its three generations. A series is there once it has a value, as in multiprocess mode."""

from __future__ import annotations

from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.engine_metrics import FinishReason, Observed
from enginebay.testing.simulators.exposition import Exposition
from enginebay.testing.simulators.wires.tensorrt_llm.flags import ServeOptions

_LATENCY_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
_FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
_TOKEN_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_HISTOGRAMS: tuple[tuple[str, Observed, tuple[float, ...]], ...] = (
    ("e2e_request_latency_seconds", "e2e_s", _LATENCY_S),
    ("time_to_first_token_seconds", "ttft_s", _FIRST_TOKEN_S),
    ("time_per_output_token_seconds", "tpot_s", _TOKEN_S),
    ("request_queue_time_seconds", "queue_s", _LATENCY_S),
)
_FINISHED: dict[str, FinishReason] = {"stop": "stop", "length": "length", "cancelled": "abort"}
# The server sets both labels to this word.
_LABELS = {"engine_type": "undefined", "model_name": "undefined"}
_GPU_BYTES = 64 * 1024**3


class TrtllmMetrics:
    def __init__(self, engine: SimulatedEngine, options: ServeOptions, *, pid: int) -> None:
        self._engine, self._options = engine, options
        self._pid = {"pid": str(pid)}
        track = engine.metrics.track
        self._histograms = [(name, track(observed, bounds)) for name, observed, bounds in _HISTOGRAMS]

    def text(self) -> str:
        text = Exposition(_LABELS)
        prefix = "" if self._options.release == "1.2" else "trtllm_"
        finished = [
            ({"finished_reason": name}, count)
            for name, reason in _FINISHED.items()
            if (count := self._engine.metrics.num_finished[reason])
        ]
        if finished:
            text.counters(f"{prefix}request_success_total", finished)
        for name, histogram in self._histograms:
            if histogram.count:
                text.histogram(prefix + name, histogram)
        if self._engine.metrics.num_steps and self._options.has_iteration_stats and prefix:
            self._write_cache(text)
        if self._options.release == "1.4":
            self._write_newest(text)
        return str(text)

    def _write_cache(self, text: Exposition) -> None:
        metrics = self._engine.metrics
        hit_ratio = metrics.num_prefix_hits / metrics.num_prefix_queries if metrics.num_prefix_queries else 0.0
        self._gauge(text, "kv_cache_hit_rate", hit_ratio)
        self._gauge(text, "kv_cache_utilization", self._engine.kv_usage_ratio)

    def _write_newest(self, text: Exposition) -> None:
        engine, profile, metrics = self._engine, self._engine.profile, self._engine.metrics
        counters = {
            "prompt_tokens_total": metrics.num_prompt_tokens,
            "generation_tokens_total": metrics.num_output_tokens,
            "prompt_cached_tokens_total": metrics.num_prefix_hits,
        }
        for name, value in counters.items():
            text.counter(f"trtllm_{name}", value)
        if not self._options.has_iteration_stats or not metrics.num_steps:
            return
        gauges = {
            "num_requests_running": engine.num_running,
            "num_requests_waiting": engine.num_waiting,
            "num_scheduled_requests": engine.num_running,
            "max_num_active_requests": profile.max_num_seqs,
            "gpu_memory_usage_bytes": _GPU_BYTES,
            "max_batch_size_static": profile.max_num_seqs,
            "max_batch_size_runtime": profile.max_num_seqs,
            "max_num_tokens_runtime": profile.max_num_batched_tokens,
            "kv_cache_max_blocks": profile.num_blocks,
            "kv_cache_free_blocks": profile.num_blocks - engine.num_used_blocks,
            "kv_cache_used_blocks": engine.num_used_blocks,
            "kv_cache_tokens_per_block": profile.block_size,
        }
        for name, value in gauges.items():
            self._gauge(text, name, value)

    def _gauge(self, text: Exposition, name: str, value: float) -> None:
        text.family(f"trtllm_{name}", "gauge", [(self._pid, value)])
