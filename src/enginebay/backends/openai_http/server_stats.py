"""The metrics of our own server as the quantities of every engine. What another server calls otherwise stays None."""

from __future__ import annotations

from enginebay import quantities
from enginebay.quantities import Quantity
from enginebay.types import EngineStats, HistogramSnapshot
from enginebay.wire.prometheus_text import MetricsText

_EXTRA = (*(quantity.prometheus_name for quantity in quantities.ENGINE), quantities.PROCESS_START_SERIES)


def stats_from(metrics: MetricsText) -> EngineStats:
    def value(quantity: Quantity) -> float | None:
        return metrics.value(quantity.prometheus_name)

    def histogram(quantity: Quantity) -> HistogramSnapshot | None:
        return metrics.histogram(quantity.prometheus_name)

    return EngineStats(
        requests_running=_running(value(quantities.REQUESTS_IN_FLIGHT), value(quantities.QUEUE_DEPTH)),
        requests_waiting=value(quantities.QUEUE_DEPTH),
        requests_total_by_finish_reason=metrics.by_label(quantities.REQUESTS.prometheus_name, "outcome"),
        prompt_tokens_total=value(quantities.PROMPT_TOKENS),
        generation_tokens_total=value(quantities.TOKENS_GENERATED),
        ttft_seconds=histogram(quantities.TIME_TO_FIRST_TOKEN),
        inter_token_seconds=histogram(quantities.INTER_TOKEN_LATENCY),
        e2e_seconds=histogram(quantities.REQUEST_LATENCY),
        queue_seconds=histogram(quantities.QUEUE_TIME),
        kv_cache_usage_ratio=value(quantities.KV_CACHE_USAGE),
        prefix_cache_hit_ratio=_ratio(value(quantities.PREFIX_CACHE_HITS), value(quantities.PREFIX_CACHE_QUERIES)),
        prefix_cache_queries_total=value(quantities.PREFIX_CACHE_QUERIES),
        prefix_cache_hits_total=value(quantities.PREFIX_CACHE_HITS),
        preemptions_total=value(quantities.PREEMPTIONS),
        batch_size=value(quantities.BATCH_SIZE),
        gpu_memory_bytes=value(quantities.GPU_MEMORY),
        extra={series: found for series in _EXTRA if (found := metrics.value(series)) is not None},
    )  # fmt: skip


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _running(num_in_flight: float | None, num_waiting: float | None) -> float | None:
    """Whatever is in flight waits or runs."""
    return None if num_in_flight is None or num_waiting is None else max(0.0, num_in_flight - num_waiting)
