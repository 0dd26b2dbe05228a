"""What an engine tells of its own work during a run: differences of its counters and averages over its samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from enginebay import quantities
from enginebay.loadtest.timeseries import Sample
from enginebay.types import EngineStats, HistogramSnapshot


class EngineFigures(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """None where the engine does not tell."""

    queue_s: float | None = None
    """Mean over requests of the wait for a place in the batch."""
    prefill_s: float | None = None
    """Mean from the end of that wait to the first token."""
    decode_s: float | None = None
    """Mean of each further token."""
    batch_size: float | None = None
    """Mean over steps where the engine counts them, else over samples with work in them."""
    num_waiting: float | None = None
    """Mean over samples."""
    cache_hit_ratio: float | None = None
    """Prompt tokens found in the prefix cache / prompt tokens looked for."""
    tokens_per_step: float | None = None
    """Output tokens / steps, over all requests of the batch."""
    tokens_per_draft: float | None = None
    """Of speculation: tokens that a checked draft gave, its bonus token included."""
    acceptance_ratio: float | None = None
    """Of speculation: drafted tokens that were kept."""
    kv_cache_usage_ratio: float | None = None
    """Highest of the samples."""
    num_preemptions: float | None = None


def engine_figures(before: EngineStats, after: EngineStats, samples: Sequence[Sample]) -> EngineFigures:
    """before, after: readings around the run; samples: those within it."""
    queue_s = _mean(before.queue_seconds, after.queue_seconds)
    ttft_s = _mean(before.ttft_seconds, after.ttft_seconds)
    steps = _extra(before, after, quantities.ENGINE_STEPS)
    return EngineFigures(
        queue_s=queue_s,
        prefill_s=None if queue_s is None or ttft_s is None else max(0.0, ttft_s - queue_s),
        decode_s=_mean(before.tpot_seconds, after.tpot_seconds),
        batch_size=_batch_size(before, after, samples, steps=steps),
        num_waiting=_mean_of(samples, lambda sample: sample.num_waiting),
        cache_hit_ratio=_ratio(
            _difference(before.prefix_cache_hits_total, after.prefix_cache_hits_total),
            _difference(before.prefix_cache_queries_total, after.prefix_cache_queries_total),
        ),
        tokens_per_step=_ratio(_difference(before.generation_tokens_total, after.generation_tokens_total), steps),
        tokens_per_draft=_tokens_per_draft(before, after),
        acceptance_ratio=_ratio(
            _difference(before.spec_decode_accepted_tokens_total, after.spec_decode_accepted_tokens_total),
            _difference(before.spec_decode_drafted_tokens_total, after.spec_decode_drafted_tokens_total),
        ),
        kv_cache_usage_ratio=max(
            (sample.kv_cache_usage_ratio for sample in samples if sample.kv_cache_usage_ratio is not None), default=None
        ),
        num_preemptions=_difference(before.preemptions_total, after.preemptions_total),
    )


def _batch_size(
    before: EngineStats, after: EngineStats, samples: Sequence[Sample], *, steps: float | None
) -> float | None:
    slot_steps = _extra(before, after, quantities.ENGINE_SLOT_STEPS)
    idle_slot_steps = _extra(before, after, quantities.ENGINE_IDLE_SLOT_STEPS)
    if slot_steps is not None and idle_slot_steps is not None and steps:
        return (slot_steps - idle_slot_steps) / steps
    # A sample between two requests sees an empty batch, which is not a small one.
    return _mean_of(samples, lambda sample: (sample.batch_size or sample.num_running) or None)


def _tokens_per_draft(before: EngineStats, after: EngineStats) -> float | None:
    drafts = _extra(before, after, quantities.ENGINE_DRAFTS)
    accepted = _extra(before, after, quantities.ENGINE_ACCEPTED_TOKENS)
    return None if accepted is None or not drafts else (accepted + drafts) / drafts


def _mean(before: HistogramSnapshot | None, after: HistogramSnapshot | None) -> float | None:
    """Of what was observed in between. An engine shows some histograms only once they have a value."""
    if after is None:
        return None
    first_sum, first_count = (before.sum, before.count) if before is not None else (0.0, 0.0)
    return _ratio(_difference(first_sum, after.sum), _difference(first_count, after.count))


def _extra(before: EngineStats, after: EngineStats, quantity: quantities.Quantity) -> float | None:
    name = quantity.prometheus_name
    return _difference(before.extra.get(name), after.extra.get(name))


def _difference(before: float | None, after: float | None) -> float | None:
    """None where a reading is missing, or went down: then the engine was restarted in between."""
    return None if before is None or after is None or after < before else after - before


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def _mean_of(samples: Sequence[Sample], value: Callable[[Sample], float | None]) -> float | None:
    values = [told for sample in samples if (told := value(sample)) is not None]
    return sum(values) / len(values) if values else None
