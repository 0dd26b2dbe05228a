"""The metrics that vLLM 0.32 publishes, with its names, labels and buckets."""

from __future__ import annotations

import time
from collections.abc import Iterator

from enginebay.testing.simulators.engine import SimulatedEngine
from enginebay.testing.simulators.engine_metrics import Histogram, Observed
from enginebay.testing.simulators.exposition import Exposition, Labels
from enginebay.testing.simulators.wire import Launch

_REQUEST_S = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
_FIRST_TOKEN_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
_TOKEN_GAP_S = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_NUM_PARAMS = (1, 2, 5, 10, 20)
_NUM_PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)
_SECONDS: tuple[tuple[str, Observed, tuple[float, ...]], ...] = (
    ("vllm:time_to_first_token_seconds", "ttft_s", _FIRST_TOKEN_S),
    ("vllm:inter_token_latency_seconds", "itl_s", _TOKEN_GAP_S),
    ("vllm:request_time_per_output_token_seconds", "tpot_s", _TOKEN_GAP_S),
    ("vllm:e2e_request_latency_seconds", "e2e_s", _REQUEST_S),
    ("vllm:request_queue_time_seconds", "queue_s", _REQUEST_S),
    ("vllm:request_inference_time_seconds", "inference_s", _REQUEST_S),
    ("vllm:request_prefill_time_seconds", "prefill_s", _REQUEST_S),
    ("vllm:request_decode_time_seconds", "decode_s", _REQUEST_S),
    ("vllm:request_num_preemptions", "num_preemptions", _NUM_PREEMPTIONS),
    ("vllm:iteration_tokens_total", "step_tokens", _STEP_TOKENS),
)
_TOKENS: tuple[tuple[str, Observed], ...] = (
    ("vllm:request_prompt_tokens", "prompt_tokens"),
    ("vllm:request_generation_tokens", "output_tokens"),
    ("vllm:request_max_num_generation_tokens", "output_tokens"),
    ("vllm:request_params_max_tokens", "max_tokens"),
    ("vllm:request_prefill_kv_computed_tokens", "prefill_computed_tokens"),
)
_FINISHED = ("stop", "length", "abort", "error")


class VllmMetrics:
    def __init__(self, launch: Launch, engine: SimulatedEngine) -> None:
        self._launch, self._engine = launch, engine
        self._created_at = time.time()
        self.num_rejected = 0
        self.num_rejected_for_tokens = 0
        token_bounds = tuple(_one_two_five(launch.profile.max_model_len))
        track = engine.metrics.track
        self._histograms = [(name, track(observed, bounds)) for name, observed, bounds in _SECONDS]
        self._histograms += [(name, track(observed, token_bounds)) for name, observed in _TOKENS]
        self._num_choices = Histogram(_NUM_PARAMS)

    def text(self) -> str:
        text = Exposition({"engine": "0", "model_name": self._launch.model}, created_at=self._created_at)
        if not self._launch.values["disable_log_stats"]:
            self._write_gauges(text)
            self._write_counters(text)
            self._write_by_label(text)
            for name, histogram in self._histograms:
                text.histogram(name, histogram)
            text.histogram("vllm:request_params_n", self._choices())
            self._write_config(text)
        return str(text)

    def _write_gauges(self, text: Exposition) -> None:
        engine = self._engine
        text.gauge("vllm:num_requests_running", engine.num_running)
        text.gauge("vllm:num_requests_waiting", engine.num_waiting)
        text.gauge("vllm:kv_cache_usage_perc", engine.kv_usage_ratio)
        waiting = [({"reason": "capacity"}, engine.num_waiting), ({"reason": "deferred"}, 0)]
        text.family("vllm:num_requests_waiting_by_reason", "gauge", waiting)
        states = {"awake": 1, "weights_offloaded": 0, "discard_all": 0}
        text.family("vllm:engine_sleep_state", "gauge", [({"sleep_state": name}, on) for name, on in states.items()])

    def _write_counters(self, text: Exposition) -> None:
        metrics = self._engine.metrics
        for name, value in {
            "vllm:prefix_cache_queries_total": metrics.num_prefix_queries,
            "vllm:prefix_cache_hits_total": metrics.num_prefix_hits,
            "vllm:external_prefix_cache_queries_total": 0,
            "vllm:external_prefix_cache_hits_total": 0,
            "vllm:mm_cache_queries_total": 0,
            "vllm:mm_cache_hits_total": 0,
            "vllm:num_preemptions_total": metrics.num_preemptions,
            "vllm:prompt_tokens_total": metrics.num_prompt_tokens,
            "vllm:prompt_tokens_cached_total": metrics.num_prefix_hits,
            "vllm:generation_tokens_total": metrics.num_output_tokens,
            "vllm:estimated_flops_per_gpu_total": 0,
            "vllm:estimated_read_bytes_per_gpu_total": 0,
            "vllm:estimated_write_bytes_per_gpu_total": 0,
        }.items():
            text.counter(name, value)

    def _write_by_label(self, text: Exposition) -> None:
        metrics = self._engine.metrics
        finished = {**metrics.num_finished, "repetition": 0}
        text.counters("vllm:request_success_total", _by("finished_reason", finished))
        computed = metrics.num_prompt_tokens - metrics.num_prefix_hits
        sources = {"local_compute": computed, "local_cache_hit": metrics.num_prefix_hits, "external_kv_transfer": 0}
        text.counters("vllm:prompt_tokens_by_source_total", _by("source", sources))
        cached = {"device": metrics.num_prefix_hits, "host": 0, "p2p": 0, "disk": 0, "external_unspecified": 0}
        text.counters("vllm:prompt_tokens_cached_by_source_total", _by("source", cached))
        rejections = {"max_num_queued_reqs": self.num_rejected, "max_num_queued_tokens": self.num_rejected_for_tokens}
        text.counters("vllm:admission_rejections_total", _by("reason", rejections))

    def _choices(self) -> Histogram:
        """Each finished request is one choice here."""
        self._num_choices.counts[0] = sum(self._engine.metrics.num_finished[reason] for reason in _FINISHED[:2])
        self._num_choices.sum = float(self._num_choices.counts[0])
        return self._num_choices

    def _write_config(self, text: Exposition) -> None:
        values, profile = self._launch.values, self._launch.profile
        override = values["num_gpu_blocks_override"]
        config = {
            "block_size": profile.block_size,
            "cache_dtype": values["kv_cache_dtype"],
            "enable_prefix_caching": profile.prefix_caching,
            "gpu_memory_utilization": values["gpu_memory_utilization"],
            "kv_cache_max_concurrency": round(profile.num_kv_tokens / profile.max_model_len, 2),
            "kv_cache_size_tokens": profile.num_kv_tokens,
            "num_cpu_blocks": None,
            "num_gpu_blocks": profile.num_blocks,
            "num_gpu_blocks_override": override,
            "prefix_caching_hash_algo": "sha256",
            "sliding_window": None,
            "user_specified_block_size": values["block_size"] is not None,
        }
        labels = {name: str(value) for name, value in config.items()}
        lines = str(_without_model(labels)).splitlines()[:2]
        for line in lines:
            text.raw(line)


def _without_model(labels: Labels) -> Exposition:
    """vLLM gives this one metric no `model_name`."""
    text = Exposition({"engine": "0"})
    text.family("vllm:cache_config_info", "gauge", [(labels, 1)])
    return text


def _by(label: str, values: dict[str, int]) -> list[tuple[Labels, float]]:
    return [({label: name}, value) for name, value in values.items()]


def _one_two_five(limit: int) -> Iterator[int]:
    """1, 2, 5, 10, 20, ... up to the limit."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power > limit:
                return
            yield factor * power
        power *= 10
