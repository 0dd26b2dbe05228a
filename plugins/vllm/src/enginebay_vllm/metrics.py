"""The series of vLLM's /metrics as the quantities of every engine."""

from __future__ import annotations

from enginebay.backends.http_engine.metric_map import MetricMap
from enginebay.wire.prometheus_text import MetricsText

_QUERIES, _HITS = "vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"
_KV_USAGE = "vllm:kv_cache_usage_perc"
_ACCEPTED, _DRAFTED = "vllm:spec_decode_num_accepted_tokens_total", "vllm:spec_decode_num_draft_tokens_total"


def _kv_cache_usage(metrics: MetricsText) -> float | None:
    """0 to 1 in spite of its name. Of several engines behind one server: their mean."""
    samples = list(metrics.matching(_KV_USAGE))
    return sum(sample.value for sample in samples) / len(samples) if samples else None


def _prefix_cache_hit_ratio(metrics: MetricsText) -> float | None:
    hits, queries = metrics.value(_HITS), metrics.value(_QUERIES)
    return hits / queries if hits is not None and queries else None


METRICS = MetricMap(
    values={
        "requests_running": "vllm:num_requests_running",
        "requests_waiting": "vllm:num_requests_waiting",
        "prompt_tokens_total": "vllm:prompt_tokens_total",
        "generation_tokens_total": "vllm:generation_tokens_total",
        "prefix_cache_queries_total": _QUERIES,
        "prefix_cache_hits_total": _HITS,
        "preemptions_total": "vllm:num_preemptions_total",
        "spec_decode_accepted_tokens_total": _ACCEPTED,
        "spec_decode_drafted_tokens_total": _DRAFTED,
        "batch_size": "vllm:num_requests_running",
    },
    histograms={
        "ttft_seconds": "vllm:time_to_first_token_seconds",
        "inter_token_seconds": "vllm:inter_token_latency_seconds",
        "tpot_seconds": "vllm:request_time_per_output_token_seconds",
        "e2e_seconds": "vllm:e2e_request_latency_seconds",
        "queue_seconds": "vllm:request_queue_time_seconds",
    },
    by_label={"requests_total_by_finish_reason": ("vllm:request_success_total", "finished_reason")},
    derived={"kv_cache_usage_ratio": _kv_cache_usage, "prefix_cache_hit_ratio": _prefix_cache_hit_ratio},
    only_when={_ACCEPTED: "speculation is on", _DRAFTED: "speculation is on"},
    extra=(
        "vllm:admission_rejections_total", "vllm:prompt_tokens_cached_total", "vllm:iteration_tokens_total_sum",
        "vllm:iteration_tokens_total_count",
    ),
)  # fmt: skip

READ_BY_DERIVED = (_KV_USAGE, _QUERIES, _HITS)
"""Series that `MetricMap.missing` does not see: a test demands them by name."""
