"""What an `LLM` object tells of itself: `llm.args`, its arguments as it checked and completed them.

Nothing here is what was asked. What the object does not tell is absent, which stands for unknown.
"""

from __future__ import annotations

from collections.abc import Mapping

# Portable name -> the engine's argument, dotted where it is inside another one.
_ARGUMENTS: Mapping[str, str] = {
    "dtype": "dtype",
    "tensor_parallel_size": "tensor_parallel_size",
    "pipeline_parallel_size": "pipeline_parallel_size",
    "max_num_seqs": "max_batch_size",
    "max_model_len": "max_seq_len",
    "max_num_batched_tokens": "max_num_tokens",
    "enable_prefix_caching": "kv_cache_config.enable_block_reuse",
    "chunked_prefill": "enable_chunked_prefill",
    "trust_remote_code": "trust_remote_code",
    # its own
    "kv_cache_config.dtype": "kv_cache_config.dtype",
    "kv_cache_config.free_gpu_memory_fraction": "kv_cache_config.free_gpu_memory_fraction",
}
_UNDECIDED = "auto"


def effective_settings(llm: object) -> dict[str, object]:
    """Null and `auto` leave the choice to what the object does not tell."""
    told = {name: _argument(llm, path) for name, path in _ARGUMENTS.items()}
    return {name: value for name, value in told.items() if value is not None and value != _UNDECIDED}


def _argument(llm: object, path: str) -> bool | int | float | str | None:
    value: object = getattr(llm, "args", None)
    for part in path.split("."):
        value = getattr(value, part, None)
    return value if isinstance(value, bool | int | float | str) else None
