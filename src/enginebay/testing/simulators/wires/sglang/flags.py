"""The flags of sglang.launch_server that the contract names."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from enginebay.testing.simulators.flags import Flag, FlagTable, Values, argparse_wording, number_with_suffix
from enginebay.testing.simulators.performance import SimulatorProfile
from enginebay.testing.simulators.vocabulary import vocabulary_of
from enginebay.testing.simulators.wire import DEFAULT_MODEL, Launch

DEFAULT_MEMORY_FRACTION = 0.88
_DTYPES = ("auto", "half", "float16", "bfloat16", "float", "float32")
_CACHE_TYPES = ("auto", "fp8_e5m2", "fp8_e4m3", "mxfp8", "bf16", "bfloat16", "nvfp4", "fp4_mx_block16")
_POLICIES = (
    "lpm", "random", "fcfs", "dfs-weight", "lof", "priority", "routing-key", "hrrn", "shortest-prefill-first",
)  # fmt: skip


def _switch(name: str) -> Flag:
    return Flag(name, default=False, is_switch=True)


FLAGS = FlagTable(
    wording=argparse_wording("launch_server.py"),
    flags=(
        Flag("--model-path", aliases=("--model",)),
        Flag("--tokenizer-path"),
        Flag("--revision"),
        Flag("--dtype", default="auto", choices=_DTYPES),
        Flag("--quantization"),
        Flag("--tp-size", int, 1, aliases=("--tensor-parallel-size",)),
        Flag("--pp-size", int, 1, aliases=("--pipeline-parallel-size",)),
        Flag("--dp-size", int, 1, aliases=("--data-parallel-size",)),
        Flag("--max-running-requests", int),
        Flag("--max-queued-requests", int),
        Flag("--context-length", number_with_suffix),
        Flag("--max-prefill-tokens", number_with_suffix, 16384),
        Flag("--max-total-tokens", number_with_suffix),
        Flag("--mem-fraction-static", float),
        Flag("--kv-cache-dtype", default="auto", choices=_CACHE_TYPES),
        _switch("--disable-radix-cache"),
        Flag("--chunked-prefill-size", number_with_suffix),
        Flag("--speculative-algorithm"),
        Flag("--speculative-draft-model-path", aliases=("--speculative-draft-model",)),
        Flag("--speculative-num-steps", int),
        Flag("--speculative-eagle-topk", int),
        Flag("--speculative-num-draft-tokens", int),
        Flag("--speculative-ngram-min-bfs-breadth", int, 1),
        Flag("--speculative-ngram-max-bfs-breadth", int, 10),
        Flag("--speculative-ngram-match-type", default="BFS"),
        Flag("--speculative-ngram-max-trie-depth", int, 18),
        Flag("--random-seed", int),
        Flag("--host", default="127.0.0.1"),
        Flag("--port", int, 0),
        Flag("--api-key"),
        Flag("--admin-api-key"),
        Flag("--served-model-name"),
        _switch("--trust-remote-code"),
        Flag("--log-level", default="info"),
        Flag("--log-level-http"),
        _switch("--enable-metrics"),
        _switch("--enable-cache-report"),
        Flag("--sampling-defaults", default="model", choices=("model", "openai")),
        Flag("--stream-interval", int, 1),
        _switch("--incremental-streaming-output"),
        _switch("--stream-response-default-include-usage"),
        _switch("--skip-server-warmup"),
        _switch("--skip-tokenizer-init"),
        Flag("--schedule-policy", default="fcfs", choices=_POLICIES),
        Flag("--page-size", int),
        _switch("--enable-deterministic-inference"),
        Flag("--load-format", default="auto"),
        Flag("--device"),
    ),
)


def configure(values: Values, profile: SimulatorProfile) -> Launch:
    fraction = cast(float, values["mem_fraction_static"] or DEFAULT_MEMORY_FRACTION)
    page_size = cast(int, values["page_size"] or profile.block_size)
    total = cast("int | None", values["max_total_tokens"])
    num_blocks = round(profile.num_blocks * fraction / DEFAULT_MEMORY_FRACTION)
    length = cast(int, values["context_length"] or profile.max_model_len)
    limit = cast("int | None", values["max_queued_requests"])
    num_running = cast(int, values["max_running_requests"] or profile.max_num_seqs)
    profile = replace(
        profile,
        max_num_seqs=num_running,
        max_model_len=length,
        max_num_batched_tokens=max(cast(int, values["max_prefill_tokens"]), length),
        block_size=page_size,
        num_blocks=total // page_size if total is not None else num_blocks,
        prefix_caching=not values["disable_radix_cache"],
        max_num_queued=None if limit is None else num_running + limit,
    )
    model = values["served_model_name"] or values["model_path"] or DEFAULT_MODEL
    vocabulary = vocabulary_of(values["tokenizer_path"] or values["model_path"])
    port = cast(int, values["port"])
    return Launch(model=str(model), profile=profile, values=values, port=port, vocabulary=vocabulary)
