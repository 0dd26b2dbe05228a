"""The settings that vLLM says it runs with, by their portable names; the engine's own keys keep theirs."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

_TRUE_OR_FALSE = {"True": True, "False": False}
_CACHE_LABELS = {
    "cache_dtype": "kv_cache_dtype",
    "gpu_memory_utilization": "gpu_memory_fraction",
    "enable_prefix_caching": "enable_prefix_caching",
    "block_size": "block_size",
    "num_gpu_blocks": "num_gpu_blocks",
    "kv_cache_memory_bytes": "kv_cache_memory_bytes",
    "kv_cache_size_tokens": "kv_cache_size_tokens",
}
"""Label of vllm:cache_config_info, which is also the field of the engine's cache configuration -> our name."""

_CONFIG_FIELDS = {
    "model_config": {
        "dtype": "dtype",
        "quantization": "quantization",
        "seed": "seed",
        "tokenizer": "tokenizer",
        "revision": "revision",
        "trust_remote_code": "trust_remote_code",
        "max_model_len": "max_model_len",
        "served_model_name": "served_model_name",
        "max_logprobs": "max_logprobs",
        "enforce_eager": "enforce_eager",
    },
    "parallel_config": {
        "tensor_parallel_size": "tensor_parallel_size",
        "pipeline_parallel_size": "pipeline_parallel_size",
        "data_parallel_size": "data_parallel",
    },
    "scheduler_config": {
        "max_num_seqs": "max_num_seqs",
        "max_num_batched_tokens": "max_num_batched_tokens",
        "enable_chunked_prefill": "chunked_prefill",
        "policy": "scheduling_policy",
        "stream_interval": "stream_interval",
    },
}
_DRAFT_SETTINGS = {
    "ngram": ("speculative_ngram", "num_speculative_tokens"),
    "draft_model": ("speculative_draft_model", "model"),
    "eagle": ("speculative_eagle", "model"),
    "eagle3": ("speculative_eagle", "model"),
}
"""Method of speculation -> (our setting, the field that has its value)."""

Section = dict[str, object] | None


class EngineConfig(msgspec.Struct):
    """The parts of the engine's whole configuration that are read."""

    model_config: Section = None
    cache_config: Section = None
    parallel_config: Section = None
    scheduler_config: Section = None
    speculative_config: Section = None
    logging_config: Section = None
    device_config: Section = None


class ServerInfo(msgspec.Struct):
    vllm_config: EngineConfig


def from_cache_labels(labels: Mapping[str, str]) -> dict[str, object]:
    """Only what is told: `None` in a label is not."""
    told = {name: _value(labels[label]) for label, name in _CACHE_LABELS.items() if label in labels}
    return {name: value for name, value in told.items() if value is not None}


def from_engine_config(config: EngineConfig) -> dict[str, object]:
    settings: dict[str, object] = {}
    for section_name, names in {**_CONFIG_FIELDS, "cache_config": _CACHE_LABELS}.items():
        section: Section = getattr(config, section_name)
        settings |= {
            name: section[field] for field, name in names.items() if section and section.get(field) is not None
        }
    if "dtype" in settings:
        settings["dtype"] = str(settings["dtype"]).removeprefix("torch.")
    if config.logging_config:
        settings["log_level"] = str(config.logging_config.get("log_level")).lower()
    if config.device_config:
        settings["device"] = str(config.device_config.get("device"))
    return settings | _speculation(config.speculative_config)


def _speculation(section: Section) -> dict[str, object]:
    method = str(section.get("method")) if section else ""
    if section is None or method not in _DRAFT_SETTINGS:
        return {}
    name, field = _DRAFT_SETTINGS[method]
    return {name: section.get(field), "num_speculative_tokens": section.get("num_speculative_tokens")}


def _value(label: str) -> object:
    if label == "None":
        return None
    if label in _TRUE_OR_FALSE:
        return _TRUE_OR_FALSE[label]
    for kind in (int, float):
        try:
            return kind(label)
        except ValueError:
            continue
    return label
