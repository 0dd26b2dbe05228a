"""The metrics of SGLang 0.5.23: scheduler series with rank labels, request series split by `is_streaming`."""

from __future__ import annotations

from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.engine_metrics import Observed
from enginebay.testing.simulators.exposition import Exposition, Labels
from enginebay.testing.simulators.wire import Launch

_FIRST_TOKEN_S = (0.1, 0.2, 0.4, 0.6, 0.8, 1, 2, 4, 6, 8, 10, 20, 40, 60, 80, 100, 200, 400)
_REQUEST_S = (*_FIRST_TOKEN_S, 600, 1200, 1800, 2400)
_TOKEN_GAP_S = (
    0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.025, 0.03, 0.035, 0.04, 0.06, 0.08, 0.1, 0.2, 0.4, 0.6, 0.8, 1, 2,
    4, 6, 8,
)  # fmt: skip
_QUEUE_S = (
    0, 0.001, 0.005, 0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 10, 15, 20, 30, 40, 50, 60, 70, 80, 90, 100, 200, 300,
    400, 500, 600, 700, 800, 900, 1000, 1200, 1400, 1600, 1800, 2000, 2500, 3000,
)  # fmt: skip
_HISTOGRAMS: tuple[tuple[str, Observed, tuple[float, ...], bool], ...] = (
    ("sglang:time_to_first_token_seconds", "ttft_s", _FIRST_TOKEN_S, True),
    ("sglang:inter_token_latency_seconds", "itl_s", _TOKEN_GAP_S, False),
    ("sglang:request_time_per_output_token_seconds", "tpot_s", _TOKEN_GAP_S, True),
    ("sglang:e2e_request_latency_seconds", "e2e_s", _REQUEST_S, True),
    ("sglang:queue_time_seconds", "queue_s", _QUEUE_S, False),
)
_RANKS: Labels = {"moe_ep_rank": "0", "pp_rank": "0", "tp_rank": "0"}
_STREAMED: Labels = {"is_streaming": "true"}


class SglangMetrics:
    def __init__(self, launch: Launch, engine: SimulatedEngine) -> None:
        self._launch, self._engine = launch, engine
        track = engine.metrics.track
        self._histograms = [(name, track(what, bounds), split) for name, what, bounds, split in _HISTOGRAMS]
        # Token counters grow when a request ends, not while it runs.
        self._prompt_tokens, self._output_tokens = track("prompt_tokens", ()), track("output_tokens", ())
        self._uncached_tokens = track("prefill_computed_tokens", ())

    def text(self) -> str:
        text = Exposition({"engine_type": "unified", "model_name": self._launch.model})
        self._write_scheduler(text)
        self._write_requests(text)
        for name, histogram, is_split in self._histograms:
            labels = _RANKS if name == "sglang:queue_time_seconds" else _STREAMED if is_split else {}
            text.histogram(name, histogram, labels)
        return str(text)

    def _write_scheduler(self, text: Exposition) -> None:
        engine, metrics = self._engine, self._engine.metrics
        queries = metrics.num_prefix_queries
        num_used_tokens = engine.num_used_blocks * engine.profile.block_size
        for name, value in {
            "num_running_reqs": engine.num_running,
            "num_queue_reqs": engine.num_waiting,
            "gen_throughput": 0,
            "cache_hit_rate": metrics.num_prefix_hits / queries if queries else 0,
            "token_usage": engine.kv_usage_ratio,
            "full_token_usage": engine.kv_usage_ratio,
            "num_used_tokens": num_used_tokens,
            "kv_used_tokens": num_used_tokens,
            "kv_available_tokens": engine.profile.num_kv_tokens - num_used_tokens,
            "spec_accept_length": 0,
            "spec_accept_rate": 0,
            "max_total_num_tokens": engine.profile.num_kv_tokens,
            "page_size": engine.profile.block_size,
            "context_len": engine.profile.max_model_len,
        }.items():
            text.family(f"sglang:{name}", "gauge", [(_RANKS, value)])
        text.counters("sglang:num_retracted_requests_total", [(_RANKS, metrics.num_preemptions)])

    def _write_requests(self, text: Exposition) -> None:
        metrics = self._engine.metrics
        num_ended = metrics.num_finished["stop"] + metrics.num_finished["length"]
        num_cached = self._prompt_tokens.sum - self._uncached_tokens.sum
        text.counters("sglang:prompt_tokens_total", [(_STREAMED, self._prompt_tokens.sum)])
        text.counters("sglang:generation_tokens_total", [(_STREAMED, self._output_tokens.sum)])
        text.counters("sglang:cached_tokens_total", [({"cache_source": "device"}, num_cached)])
        text.counters("sglang:num_requests_total", [(_STREAMED, num_ended)])
        text.counter("sglang:num_aborted_requests_total", metrics.num_finished["abort"])
