"""The counters of the engine and of this side, as the 19 quantities that every backend reports."""

from __future__ import annotations

from enginebay import quantities
from enginebay.backends.request_metrics import RequestMetrics
from enginebay.engine.request import EngineCounters
from enginebay.types import EngineStats


def engine_stats(counters: EngineCounters, metrics: RequestMetrics) -> EngineStats:
    """Speculation is 0 where nothing drafts."""
    num_used = counters.num_blocks - counters.num_free_blocks
    return EngineStats(
        requests_running=counters.num_running,
        requests_waiting=counters.num_waiting,
        requests_total_by_finish_reason={reason: float(count) for reason, count in metrics.outcomes.items()},
        prompt_tokens_total=metrics.num_prompt_tokens,
        generation_tokens_total=metrics.num_output_tokens,
        ttft_seconds=metrics.ttft_s.snapshot(),
        inter_token_seconds=metrics.inter_token_s.snapshot(),
        tpot_seconds=metrics.tpot_s.snapshot(),
        e2e_seconds=metrics.e2e_s.snapshot(),
        queue_seconds=metrics.queue_s.snapshot(),
        kv_cache_usage_ratio=num_used / counters.num_blocks if counters.num_blocks else None,
        prefix_cache_hit_ratio=_hit_ratio(counters),
        prefix_cache_queries_total=counters.num_prefix_queried_tokens,
        prefix_cache_hits_total=counters.num_prefix_hit_tokens,
        preemptions_total=counters.num_preemptions,
        spec_decode_accepted_tokens_total=counters.num_accepted_tokens,
        spec_decode_drafted_tokens_total=counters.num_drafted_tokens,
        batch_size=counters.batch_size,
        gpu_memory_bytes=counters.device_memory_bytes,
        extra=_own_counters(counters, metrics),
    )


def _hit_ratio(counters: EngineCounters) -> float | None:
    """Since the start; None while nobody has asked."""
    queried = counters.num_prefix_queried_tokens
    return counters.num_prefix_hit_tokens / queried if queried else None


def _own_counters(counters: EngineCounters, metrics: RequestMetrics) -> dict[str, float]:
    """This side throws tokens away too, after a stop string, and may notice first that a deadline has passed."""
    values = {
        quantities.ENGINE_STEPS: counters.num_steps,
        quantities.ENGINE_STEP_SECONDS: counters.step_s,
        quantities.ENGINE_MODEL_SECONDS: counters.model_s,
        quantities.ENGINE_SAMPLE_SECONDS: counters.sample_s,
        quantities.ENGINE_BUSY_SECONDS: counters.busy_s,
        quantities.ENGINE_COMPUTED_TOKENS: counters.num_computed_tokens,
        quantities.ENGINE_PADDING_TOKENS: counters.num_padding_tokens,
        quantities.ENGINE_SLOT_STEPS: counters.num_slot_steps,
        quantities.ENGINE_IDLE_SLOT_STEPS: counters.num_idle_slot_steps,
        quantities.ENGINE_BATCH_WAIT_SECONDS: counters.batch_wait_s,
        quantities.ENGINE_ADMITTED: counters.num_admitted,
        quantities.ENGINE_PREFIX_EVICTED: counters.num_prefix_evicted_blocks,
        quantities.ENGINE_DRAFTS: counters.num_drafts,
        quantities.ENGINE_DRAFTED_TOKENS: counters.num_drafted_tokens,
        quantities.ENGINE_ACCEPTED_TOKENS: counters.num_accepted_tokens,
        quantities.ENGINE_FAILED_DRAFTS: counters.num_failed_drafts,
        quantities.ENGINE_DRAFT_SECONDS: counters.draft_s,
        quantities.ENGINE_DISCARDED_TOKENS: counters.num_discarded_tokens + metrics.num_discarded_tokens,
        quantities.ENGINE_DEADLINE_EXCEEDED: metrics.num_deadline_exceeded,
        quantities.ENGINE_DEADLINE_REFUSED: counters.num_deadline_refused,
        quantities.ENGINE_OUT_OF_MEMORY: counters.num_out_of_memory,
        quantities.ENGINE_SLOTS: counters.num_slots,
        quantities.ENGINE_TOKEN_BUDGET: counters.max_num_batched_tokens,
    }
    return {quantity.prometheus_name: float(value) for quantity, value in values.items()}
