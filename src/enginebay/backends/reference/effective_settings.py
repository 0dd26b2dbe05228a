"""What the engine runs with, for `BackendInfo.effective_settings`: plain values, and no path of this machine."""

from __future__ import annotations

import msgspec

from enginebay.backends.reference.engine_port import ReadyPort, described
from enginebay.engine.settings import EngineConfig

TOLD = (
    "policy", "batch_rule", "dtype", "kv_cache_dtype", "device", "kernels", "quantization", "smooth_int8",
    "batch_invariant", "max_num_seqs", "max_model_len", "max_num_batched_tokens", "chunked_prefill",
    "enable_prefix_caching", "static_batch_timeout_s", "block_size", "num_blocks", "gpu_memory_fraction",
    "num_threads", "torch_version", "architecture", "weight_bytes", "stored_weight_bytes", "weight_layouts",
    "kv_cache_allocated_bytes",
)  # fmt: skip


def effective_settings(config: EngineConfig, ready: ReadyPort) -> dict[str, object]:
    """What the engine says goes before what it was asked for.

    num_slots is the size of the batch. The naive policy has one slot whatever max_num_seqs is, so there is no
    max_num_seqs in force then.
    """
    told = described(ready)
    found = {**msgspec.structs.asdict(config), **told}
    settings = {name: found[name] for name in TOLD if found.get(name) is not None}
    if "max_num_seqs" in told:
        settings["num_slots"] = told["max_num_seqs"]
    if config.kv_cache_dtype == "auto":
        settings["kv_cache_dtype"] = settings["dtype"]
    if config.policy != "dynamic":
        settings.pop("batch_rule", None)
    if config.quantization != "int8":
        settings.pop("smooth_int8", None)
    if config.policy == "naive":
        settings.pop("max_num_seqs", None)
    return {**settings, **_speculation(config)}


def _speculation(config: EngineConfig) -> dict[str, object]:
    """Nothing where nothing drafts. Of a draft model in a directory only that there is one."""
    if config.speculative_ngram is not None:
        drafts: dict[str, object] = {"speculative_ngram": config.speculative_ngram}
    elif config.speculative_draft_dir is None and config.speculative_self_draft is None:
        return {}
    else:
        drafts = {
            "speculative_draft": config.speculative_self_draft or "model",
            "speculative_num_tokens": config.speculative_num_tokens,
        }
    return {**drafts, "speculative_adaptive": config.speculative_adaptive}
