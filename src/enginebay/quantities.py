"""The metric catalogue: every quantity that is published, with its Prometheus name, type, unit and meaning.

Exporter, sampler, dashboards, documentation and tests read this one table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0)
TOKEN_GAP_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)

SIMULATED_METRIC = "enginebay_simulated"
SIMULATED_HEADER = "x-enginebay-simulated"


@dataclass(frozen=True, slots=True)
class Quantity:
    prometheus_name: str
    type: Literal["counter", "gauge", "histogram"]
    unit: str
    meaning: str
    labels: tuple[str, ...] = ("backend", "model", "replica")
    buckets: tuple[float, ...] = ()


REQUESTS = Quantity(
    "llm_requests_total",
    "counter",
    "requests",
    "Finished requests by outcome: a finish reason, cancelled, refused (the request was at fault), or error",
    labels=("backend", "model", "replica", "outcome"),
)
REQUEST_LATENCY = Quantity(
    "llm_request_latency_seconds",
    "histogram",
    "seconds",
    "From the arrival of a request to its last token",
    buckets=LATENCY_BUCKETS_S,
)
TIME_TO_FIRST_TOKEN = Quantity(
    "llm_time_to_first_token_seconds",
    "histogram",
    "seconds",
    "From the arrival of a request to its first token",
    buckets=LATENCY_BUCKETS_S,
)
INTER_TOKEN_LATENCY = Quantity(
    "llm_inter_token_latency_seconds",
    "histogram",
    "seconds",
    "Gaps between successive tokens of one request",
    buckets=TOKEN_GAP_BUCKETS_S,
)
QUEUE_TIME = Quantity(
    "llm_queue_time_seconds",
    "histogram",
    "seconds",
    "From the arrival of a request to its first computed token",
    buckets=LATENCY_BUCKETS_S,
)
REQUESTS_IN_FLIGHT = Quantity("llm_requests_in_flight", "gauge", "requests", "Requests begun and not yet ended")
TOKENS_GENERATED = Quantity("llm_tokens_generated_total", "counter", "tokens", "Output tokens")
PROMPT_TOKENS = Quantity("llm_prompt_tokens_total", "counter", "tokens", "Prompt tokens of admitted requests")
TOKENS_PER_SECOND = Quantity("llm_tokens_per_second", "gauge", "tokens/s", "Output tokens per second, last 10 seconds")
BATCH_SIZE = Quantity("llm_batch_size", "gauge", "requests", "Requests computed in the latest step")
QUEUE_DEPTH = Quantity("llm_queue_depth", "gauge", "requests", "Requests that wait for a place in the batch")
KV_CACHE_USAGE = Quantity("llm_kv_cache_usage_ratio", "gauge", "ratio", "Share of the KV blocks that are in use")
GPU_MEMORY = Quantity("llm_gpu_memory_bytes", "gauge", "bytes", "Device memory held by the engine; absent without GPU")
PREFIX_CACHE_QUERIES = Quantity(
    "llm_prefix_cache_queries_total", "counter", "tokens", "Prompt tokens that were looked for in the prefix cache"
)
PREFIX_CACHE_HITS = Quantity(
    "llm_prefix_cache_hits_total", "counter", "tokens", "Prompt tokens whose keys and values were in the prefix cache"
)
PREEMPTIONS = Quantity("llm_preemptions_total", "counter", "requests", "Requests put back because KV blocks ran out")

# Counters of the reference engine: the load test derives its ratios from their differences over a run.
ENGINE_STEPS = Quantity("enginebay_engine_steps_total", "counter", "steps", "Forward passes")
ENGINE_STEP_SECONDS = Quantity(
    "enginebay_engine_step_seconds_total", "counter", "seconds", "Time in steps: schedule, model, sampling, update"
)
ENGINE_MODEL_SECONDS = Quantity(
    "enginebay_engine_model_seconds_total", "counter", "seconds", "Time in the model itself"
)
ENGINE_SAMPLE_SECONDS = Quantity(
    "enginebay_engine_sample_seconds_total", "counter", "seconds", "Time in drawing tokens from the model's logits"
)
ENGINE_BUSY_SECONDS = Quantity(
    "enginebay_engine_busy_seconds_total", "counter", "seconds", "Time with at least one request admitted or waiting"
)
ENGINE_COMPUTED_TOKENS = Quantity(
    "enginebay_engine_computed_tokens_total", "counter", "tokens", "Token positions computed, padding included"
)
ENGINE_PADDING_TOKENS = Quantity(
    "enginebay_engine_padding_tokens_total", "counter", "tokens", "Token positions computed only as padding"
)
ENGINE_SLOT_STEPS = Quantity(
    "enginebay_engine_slot_steps_total", "counter", "slot steps", "Slots (max_num_seqs) summed over steps"
)
ENGINE_IDLE_SLOT_STEPS = Quantity(
    "enginebay_engine_idle_slot_steps_total",
    "counter",
    "slot steps",
    "Slots that did no useful work, summed over steps: empty, or held by a finished sequence",
)
ENGINE_BATCH_WAIT_SECONDS = Quantity(
    "enginebay_engine_batch_wait_seconds_total",
    "counter",
    "seconds",
    "Time that requests waited for a batch to form, summed over requests",
)
ENGINE_ADMITTED = Quantity("enginebay_engine_admitted_total", "counter", "requests", "Requests given a slot")
ENGINE_PREFIX_EVICTED = Quantity(
    "enginebay_engine_prefix_evicted_blocks_total",
    "counter",
    "blocks",
    "KV blocks of known prefixes that were overwritten for want of others",
)
ENGINE_DRAFTS = Quantity(
    "enginebay_engine_drafts_total",
    "counter",
    "drafts",
    "Drafts of one or more tokens that were checked; (accepted tokens + drafts) / drafts is the tokens of such a step",
)
ENGINE_DRAFTED_TOKENS = Quantity(
    "enginebay_engine_drafted_tokens_total", "counter", "tokens", "Tokens proposed by speculation and checked"
)
ENGINE_ACCEPTED_TOKENS = Quantity(
    "enginebay_engine_accepted_tokens_total", "counter", "tokens", "Tokens proposed by speculation and accepted"
)
ENGINE_FAILED_DRAFTS = Quantity(
    "enginebay_engine_failed_drafts_total", "counter", "requests", "Requests that go on without drafts: one has failed"
)
ENGINE_DRAFT_SECONDS = Quantity(
    "enginebay_engine_draft_seconds_total", "counter", "seconds", "Time in proposing tokens, draft models included"
)
ENGINE_DISCARDED_TOKENS = Quantity(
    "enginebay_engine_discarded_tokens_total", "counter", "tokens", "Tokens sampled after a stop and thrown away"
)
ENGINE_DEADLINE_EXCEEDED = Quantity(
    "enginebay_engine_deadline_exceeded_total",
    "counter",
    "requests",
    "Requests that ended because their deadline had passed or could not be met, refused ones included",
)
ENGINE_DEADLINE_REFUSED = Quantity(
    "enginebay_engine_deadline_refused_total",
    "counter",
    "requests",
    "Requests that the engine refused for their deadline before they cost a token",
)
ENGINE_OUT_OF_MEMORY = Quantity(
    "enginebay_engine_out_of_memory_total",
    "counter",
    "steps",
    "Steps that ran out of memory and were computed again with half the tokens",
)
ENGINE_SLOTS = Quantity(
    "enginebay_engine_slots", "gauge", "requests", "How many requests the batch may hold now: it follows the queue"
)
ENGINE_TOKEN_BUDGET = Quantity(
    "enginebay_engine_token_budget", "gauge", "tokens", "How many tokens one step may compute now"
)
STATS_UP = Quantity(
    "enginebay_engine_stats_up", "gauge", "flag", "1 when the engine's own figures could be read for this scrape"
)

PROCESS_START_SERIES = "process_start_time_seconds"
"""Of servers that publish the usual figures of their process: Unix time of its start. Kept in `EngineStats.extra`."""

SERVING = (
    REQUESTS, REQUESTS_IN_FLIGHT, REQUEST_LATENCY, TIME_TO_FIRST_TOKEN, INTER_TOKEN_LATENCY, QUEUE_TIME,
    TOKENS_GENERATED, PROMPT_TOKENS, TOKENS_PER_SECOND, BATCH_SIZE, QUEUE_DEPTH, KV_CACHE_USAGE, GPU_MEMORY,
    PREEMPTIONS, PREFIX_CACHE_QUERIES, PREFIX_CACHE_HITS,
)  # fmt: skip
ENGINE = (
    ENGINE_STEPS, ENGINE_STEP_SECONDS, ENGINE_MODEL_SECONDS, ENGINE_SAMPLE_SECONDS, ENGINE_BUSY_SECONDS,
    ENGINE_COMPUTED_TOKENS, ENGINE_PADDING_TOKENS, ENGINE_SLOT_STEPS, ENGINE_IDLE_SLOT_STEPS,
    ENGINE_BATCH_WAIT_SECONDS, ENGINE_ADMITTED, ENGINE_PREFIX_EVICTED, ENGINE_DRAFTS, ENGINE_DRAFTED_TOKENS,
    ENGINE_ACCEPTED_TOKENS, ENGINE_FAILED_DRAFTS, ENGINE_DRAFT_SECONDS, ENGINE_DISCARDED_TOKENS,
    ENGINE_DEADLINE_EXCEEDED, ENGINE_DEADLINE_REFUSED, ENGINE_OUT_OF_MEMORY, ENGINE_SLOTS, ENGINE_TOKEN_BUDGET,
)  # fmt: skip
CATALOGUE = (*SERVING, *ENGINE, STATS_UP)
