"""The pipeline's own metrics and our counters, as the quantities that every backend reports."""

from __future__ import annotations

from typing import Any

from enginebay.backends.request_metrics import RequestMetrics
from enginebay.types import EngineStats

_PERCENT = 100.0


def engine_stats(pipeline_metrics: Any, metrics: RequestMetrics, *, num_live: int) -> EngineStats:
    """pipeline_metrics: a PipelineMetrics, as of the latest step. num_live: requests that it may not know yet.

    Prefix-cache hits and preemptions are not told.
    """
    num_running = min(pipeline_metrics.scheduled_requests, num_live)
    return EngineStats(
        requests_running=num_running,
        requests_waiting=max(0, num_live - num_running),
        requests_total_by_finish_reason={reason: float(count) for reason, count in metrics.outcomes.items()},
        prompt_tokens_total=metrics.num_prompt_tokens,
        generation_tokens_total=metrics.num_output_tokens,
        ttft_seconds=metrics.ttft_s.snapshot(),
        inter_token_seconds=metrics.inter_token_s.snapshot(),
        tpot_seconds=metrics.tpot_s.snapshot(),
        e2e_seconds=metrics.e2e_s.snapshot(),
        queue_seconds=metrics.queue_s.snapshot(),
        kv_cache_usage_ratio=pipeline_metrics.cache_usage / _PERCENT,
        batch_size=num_running,
        extra={
            "openvino_pipeline_requests": float(pipeline_metrics.requests),
            "openvino_cache_size_bytes": float(pipeline_metrics.cache_size_in_bytes),
        },
    )
