"""llama-server's metrics as the quantities of every engine. It has no histograms and no finish reasons.

Not read: the two throughput gauges, which are averages since whoever scraped last, and `n_tokens_max`, a maximum that
calls itself a counter. Values have six significant digits: of a counter beyond a million, small differences are lost.
"""

from __future__ import annotations

from enginebay.backends.http_engine.metric_map import MetricMap
from enginebay.wire.prometheus_text import MetricsText

COMPUTED = "llamacpp:prompt_tokens_total"
CACHED = "llamacpp:prompt_tokens_cached_total"


def _prompt_tokens(metrics: MetricsText) -> float | None:
    """The engine counts computed tokens apart from cached ones; every other engine counts both as prompt tokens."""
    computed, cached = metrics.value(COMPUTED), metrics.value(CACHED)
    return None if computed is None or cached is None else computed + cached


def _hit_ratio(metrics: MetricsText) -> float | None:
    looked_up, cached = _prompt_tokens(metrics), metrics.value(CACHED)
    return cached / looked_up if looked_up and cached is not None else None


METRICS = MetricMap(
    values={
        "prompt_tokens_total": COMPUTED,  # so that its absence is noticed; what it stands for is derived below
        "requests_running": "llamacpp:requests_processing",
        "requests_waiting": "llamacpp:requests_deferred",
        "generation_tokens_total": "llamacpp:tokens_predicted_total",
        "prefix_cache_hits_total": CACHED,
        "spec_decode_accepted_tokens_total": "llamacpp:spec_decode_num_accepted_tokens_total",
        "spec_decode_drafted_tokens_total": "llamacpp:spec_decode_num_draft_tokens_total",
        "batch_size": "llamacpp:n_busy_slots_per_decode",
    },
    derived={
        "prompt_tokens_total": _prompt_tokens,
        "prefix_cache_queries_total": _prompt_tokens,
        "prefix_cache_hit_ratio": _hit_ratio,
    },
    extra=(
        COMPUTED, "llamacpp:prompt_seconds_total", "llamacpp:tokens_predicted_seconds_total", "llamacpp:n_decode_total",
    ),
)  # fmt: skip
