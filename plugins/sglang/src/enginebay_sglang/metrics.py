"""SGLang's metrics as the quantities of every engine.

Request counters and latency histograms are split by `is_streaming`, scheduler gauges by rank: both are summed. Token
counters grow when a request ends, not while it runs.
"""

from __future__ import annotations

from enginebay.backends.http_engine.metric_map import MetricMap
from enginebay.wire.prometheus_text import MetricsText

CACHED = "sglang:cached_tokens_total"
PROMPT = "sglang:prompt_tokens_total"


def _cached_tokens(metrics: MetricsText) -> float | None:
    """`total` is the sum of the other sources: whoever adds all of them up counts twice."""
    by_source = metrics.by_label(CACHED, "cache_source")
    if by_source is None:
        return None
    return by_source["total"] if "total" in by_source else sum(by_source.values())


METRICS = MetricMap(
    values={
        "requests_running": "sglang:num_running_reqs",
        "requests_waiting": "sglang:num_queue_reqs",
        "prompt_tokens_total": PROMPT,
        "generation_tokens_total": "sglang:generation_tokens_total",
        "kv_cache_usage_ratio": "sglang:token_usage",
        "prefix_cache_hit_ratio": "sglang:cache_hit_rate",
        "prefix_cache_queries_total": PROMPT,
        "prefix_cache_hits_total": CACHED,  # so that its absence is noticed; summed below
        "preemptions_total": "sglang:num_retracted_requests_total",
        "batch_size": "sglang:num_running_reqs",
    },
    histograms={
        "ttft_seconds": "sglang:time_to_first_token_seconds",
        "inter_token_seconds": "sglang:inter_token_latency_seconds",
        "tpot_seconds": "sglang:request_time_per_output_token_seconds",
        "e2e_seconds": "sglang:e2e_request_latency_seconds",
        "queue_seconds": "sglang:queue_time_seconds",
    },
    derived={"prefix_cache_hits_total": _cached_tokens},
    extra=(
        "sglang:num_requests_total", "sglang:num_aborted_requests_total", "sglang:spec_accept_rate",
        "sglang:spec_accept_length", "sglang:gen_throughput", "sglang:max_total_num_tokens",
    ),
)  # fmt: skip
