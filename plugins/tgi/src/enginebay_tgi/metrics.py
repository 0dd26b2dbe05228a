"""TGI 3's metrics as the quantities of every engine.

Counters have no `_total`. A series appears with its first observation, so what a fresh server lacks is unknown yet.
There is no time to first token, no gap between tokens, no finish reason, no use of the KV cache.
"""

from __future__ import annotations

from dataclasses import replace

from enginebay.backends.http_engine.metric_map import MetricMap
from enginebay.types import EngineStats
from enginebay.wire.prometheus_text import MetricsText

TGI_METRICS = MetricMap(
    values={
        "requests_running": "tgi_batch_current_size",
        "requests_waiting": "tgi_queue_size",
        "batch_size": "tgi_batch_current_size",
        "prompt_tokens_total": "tgi_request_input_length_sum",
        "generation_tokens_total": "tgi_request_generated_tokens_sum",
        "spec_decode_accepted_tokens_total": "tgi_request_skipped_tokens_sum",
    },
    histograms={
        "tpot_seconds": "tgi_request_mean_time_per_token_duration",
        "e2e_seconds": "tgi_request_duration",
        "queue_seconds": "tgi_request_queue_duration",
    },
    only_when={"tgi_request_skipped_tokens_sum": "speculative decoding"},
)
EXTRA = (
    "tgi_request_count",
    "tgi_request_success",
    "tgi_request_failure",
    "tgi_batch_current_max_tokens",
    "tgi_batch_inference_count",
)
"""Series that only TGI has: what it received and how it ended, and the token budget that its batch holds."""


def stats_from(metrics: MetricsText) -> EngineStats:
    found = {name: value for name in EXTRA if (value := _value(metrics, name)) is not None}
    return replace(TGI_METRICS.stats(metrics), extra=found)


def _value(metrics: MetricsText, name: str) -> float | None:
    """The parser gives counters the `_total` that TGI's lack."""
    value = metrics.value(name)
    return metrics.value(f"{name}_total") if value is None else value
