"""The three generations of metric names of trtllm-serve, Triton's own, and which one a server speaks."""

from __future__ import annotations

from enginebay.backends.http_engine.metric_map import Derived, MetricMap
from enginebay.types import EngineStats
from enginebay.wire.prometheus_text import MetricsText, Sample

_FINISHED = "finished_reason"
_ITERATION = "enable_iter_perf_stats"


def _since_1_2(prefix: str) -> dict[str, str]:
    return {
        "ttft_seconds": f"{prefix}time_to_first_token_seconds",
        "tpot_seconds": f"{prefix}time_per_output_token_seconds",
        "e2e_seconds": f"{prefix}e2e_request_latency_seconds",
        "queue_seconds": f"{prefix}request_queue_time_seconds",
    }


LINE_1_2 = MetricMap(
    histograms=_since_1_2(""), by_label={"requests_total_by_finish_reason": ("request_success_total", _FINISHED)}
)
"""Unprefixed, and no gauges: the rest is in the iteration statistics."""
_CACHE = {
    "kv_cache_usage_ratio": "trtllm_kv_cache_utilization",
    "prefix_cache_hit_ratio": "trtllm_kv_cache_hit_rate",
}
_FINISHED_REQUESTS = {"requests_total_by_finish_reason": ("trtllm_request_success_total", _FINISHED)}
LINE_1_3 = MetricMap(
    values=_CACHE,
    histograms=_since_1_2("trtllm_"),
    by_label=_FINISHED_REQUESTS,
    only_when=dict.fromkeys(_CACHE.values(), _ITERATION),
)
_NEWEST_GAUGES = {
    **_CACHE,
    "requests_running": "trtllm_num_requests_running",
    "requests_waiting": "trtllm_num_requests_waiting",
    "batch_size": "trtllm_num_scheduled_requests",
    "gpu_memory_bytes": "trtllm_gpu_memory_usage_bytes",
}
_SPECULATION = {
    "spec_decode_accepted_tokens_total": "trtllm_spec_decode_num_accepted_tokens_total",
    "spec_decode_drafted_tokens_total": "trtllm_spec_decode_num_draft_tokens_total",
}
_TOKENS = {
    "prompt_tokens_total": "trtllm_prompt_tokens_total",
    "generation_tokens_total": "trtllm_generation_tokens_total",
    "prefix_cache_hits_total": "trtllm_prompt_cached_tokens_total",
}
NEWEST = MetricMap(
    values={**_NEWEST_GAUGES, **_SPECULATION, **_TOKENS},
    histograms=_since_1_2("trtllm_"),
    by_label=_FINISHED_REQUESTS,
    only_when={
        **dict.fromkeys(_NEWEST_GAUGES.values(), _ITERATION),
        **dict.fromkeys(_SPECULATION.values(), f"{_ITERATION} and speculation"),
    },
    extra=("trtllm_request_error_total", "trtllm_kv_cache_reused_blocks_total", "trtllm_kv_cache_missed_blocks_total"),
)


def generation_of(metrics: MetricsText) -> MetricMap | None:
    """By what is there, since no release says its own. None: a server that has answered nothing yet."""
    newest_alone = {*NEWEST.values.values()} - {*LINE_1_3.values.values()}
    if any(name in metrics for name in newest_alone):
        return NEWEST
    if any(name.startswith("trtllm_") for name in metrics.samples):
        return LINE_1_3
    return LINE_1_2 if "request_success_total" in metrics else None


def stats_of(metrics: MetricsText) -> tuple[MetricMap | None, EngineStats]:
    metrics = of_newest_process(metrics)
    found = generation_of(metrics)
    return found, EngineStats() if found is None else found.stats(metrics)


def of_newest_process(metrics: MetricsText) -> MetricsText:
    """Gauges carry the id of the process that set them, and those of processes that are gone stay: take the newest."""
    return MetricsText({name: _newest(samples) for name, samples in metrics.samples.items()})


def _newest(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    if not any("pid" in sample.labels for sample in samples):
        return samples
    newest = max(_pid(sample) for sample in samples)
    return tuple(sample for sample in samples if _pid(sample) == newest)


def _pid(sample: Sample) -> int:
    pid = sample.labels.get("pid", "")
    return int(pid) if pid.isdigit() else -1


# ---------------------------------------------------------------- Triton


def _labelled(series: str, label: str, value: str) -> Derived:
    return lambda metrics: metrics.value(series, {label: value})


_TRITON_SOURCES = {
    "requests_running": ("nv_trt_llm_request_metrics", "request_type", "active"),
    "requests_waiting": ("nv_trt_llm_request_metrics", "request_type", "waiting"),
    "batch_size": ("nv_trt_llm_request_metrics", "request_type", "scheduled"),
    "kv_cache_usage_ratio": ("nv_trt_llm_kv_cache_block_metrics", "kv_cache_block_type", "fraction"),
    "gpu_memory_bytes": ("nv_trt_llm_runtime_memory_metrics", "memory_type", "gpu"),
}
TRITON = MetricMap(derived={quantity: _labelled(*source) for quantity, source in _TRITON_SOURCES.items()})


def missing_from_triton(metrics: MetricsText) -> list[str]:
    """Like `MetricMap.missing`, for quantities that are one label of a series."""
    return sorted(
        f'{series}{{{label}="{value}"}}'
        for series, label, value in _TRITON_SOURCES.values()
        if metrics.value(series, {label: value}) is None
    )
