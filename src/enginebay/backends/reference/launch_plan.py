"""What each portable setting becomes for the reference engine, and the engine's own configuration made of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from enginebay.backend import LaunchPlan, SettingOutcome, Settings
from enginebay.backends.reference.options import ReferenceOptions
from enginebay.backends.reference.quantization_names import engine_quantization, quantization_outcome
from enginebay.engine.policies.batch_rules import LESSON_LARGE_BATCH
from enginebay.engine.settings import EngineConfig
from enginebay.errors import ConfigError

_TO_ENGINE = (
    "max_num_seqs", "max_model_len", "max_num_batched_tokens", "chunked_prefill", "enable_prefix_caching",
    "speculative_ngram", "gpu_memory_fraction", "kv_cache_dtype",
)  # fmt: skip
"""Settings that the engine knows under the same name."""

_INT8_KV_CACHE = "keys and values in int8, with a scale for each token and head"
_INT8_KV_CACHE_BY_OTHER_NAMES: Mapping[str, str] = {"int8_per_token_head": "vLLM's name"}
"""And whose word it is."""

_OPTIONS_TO_ENGINE = (
    "policy", "batch_rule", "device", "block_size", "num_blocks", "kv_cache_bytes", "static_batch_timeout_s",
    "num_threads", "kernels", "smooth_int8", "batch_invariant", "speculative_self_draft", "speculative_num_tokens",
    "speculative_adaptive",
)  # fmt: skip

_Rule = Callable[[str, Any], SettingOutcome]


def compile_settings(settings: Settings, version: str | None) -> LaunchPlan:
    """version is that of this package: there is one reference engine in it."""
    return LaunchPlan(outcomes=tuple(_RULES[name](name, value) for name, value in settings.items()))


def engine_config(
    settings: Settings, options: ReferenceOptions, model_dir: Path, *, draft_dir: Path | None = None
) -> EngineConfig:
    """draft_dir: of speculative_draft_model."""
    own = options.model_dump(include=set(_OPTIONS_TO_ENGINE))
    portable: dict[str, Any] = {name: settings[name] for name in _TO_ENGINE if name in settings}
    if "dtype" in settings:
        dtype = str(settings["dtype"])
        portable["dtype"] = _stored_dtype(model_dir) if dtype == "auto" else dtype
    if "quantization" in settings:
        portable["quantization"] = engine_quantization(settings["quantization"])
    if str(settings.get("kv_cache_dtype")) in _INT8_KV_CACHE_BY_OTHER_NAMES:
        portable["kv_cache_dtype"] = "int8"
    if options.policy == "dynamic":
        portable.setdefault("max_num_seqs", LESSON_LARGE_BATCH)
    if draft_dir is not None:
        portable["speculative_draft_dir"] = str(draft_dir)
    return EngineConfig(model_dir=str(model_dir), **own, **portable)


def _stored_dtype(model_dir: Path) -> str:
    path = model_dir / "config.json"
    try:
        config: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"dtype is auto, but {path} cannot be read: {error}", path="engine.dtype") from error
    return str(config.get("dtype") or config.get("torch_dtype") or "float32")


# ---------------------------------------------------------------- one rule for each setting


def _mapped(becomes: str) -> _Rule:
    return lambda name, value: SettingOutcome(name, value, "mapped", becomes=becomes.format(name=name, value=value))


def _unsupported(why: str) -> _Rule:
    return lambda name, value: SettingOutcome(name, value, "unsupported", why=why)


def _only(neutral: object, becomes: str, why: str) -> _Rule:
    """One value says what this engine does anyway; any other is unsupported."""

    def rule(name: str, value: Any) -> SettingOutcome:
        return (_mapped(becomes) if value == neutral else _unsupported(why))(name, value)

    return rule


def _trust_remote_code(name: str, value: Any) -> SettingOutcome:
    if not value:
        return _mapped("no code from the weights is run")(name, value)
    return SettingOutcome(
        name,
        value,
        "approximated",
        becomes="no code from the weights is run",
        why="this engine has its own code for the models it knows and refuses the others by name",
    )


def _kv_cache_dtype(name: str, value: Any) -> SettingOutcome:
    if value == "auto":
        return SettingOutcome(name, value, "mapped", becomes="the dtype of the model")
    if value == "int8":
        return SettingOutcome(name, value, "mapped", becomes=_INT8_KV_CACHE)
    if (why := _INT8_KV_CACHE_BY_OTHER_NAMES.get(str(value))) is not None:
        return SettingOutcome(name, value, "approximated", becomes=f"int8: {_INT8_KV_CACHE}", why=why)
    why_not = "the KV cache has the dtype of the model (auto) or is int8"
    return SettingOutcome(name, value, "unsupported", why=why_not)


_ONE_DEVICE = "this engine runs on one device"
_RULES: Mapping[str, _Rule] = {
    "tokenizer": _mapped("tokenizer and chat template from {value}"),
    "revision": _mapped("weights at revision {value}"),
    "dtype": _mapped("weights and activations in {value}, and the KV cache unless kv_cache_dtype is int8"),
    "quantization": quantization_outcome,
    "tensor_parallel_size": _only(1, "one device", _ONE_DEVICE),
    "pipeline_parallel_size": _only(1, "one device", _ONE_DEVICE),
    "data_parallel": _only(1, "one engine", "this backend is one engine; configure several backends instead"),
    "max_num_seqs": _mapped("{name}={value}"),
    "max_model_len": _mapped("{name}={value}"),
    "max_num_batched_tokens": _mapped("{name}={value}"),
    "gpu_memory_fraction": _mapped(
        "weights, KV cache and one step take {value} of the GPU's memory; on the CPU, of what is available at the start"
    ),
    "kv_cache_dtype": _kv_cache_dtype,
    "enable_prefix_caching": _mapped("{name}={value}"),
    "chunked_prefill": _mapped("{name}={value}"),
    "speculative_draft_model": _mapped("drafts of the model {value}, checked in one pass"),
    "speculative_ngram": _mapped("up to {value} tokens drafted by prompt lookup, checked in one pass"),
    "speculative_eagle": _unsupported("this engine has no EAGLE heads; use speculative_ngram or a draft model"),
    "seed": _mapped("seeds of requests without one are drawn from {value}"),
    "served_model_name": _mapped("the model is called {value}"),
    "trust_remote_code": _trust_remote_code,
    "log_level": _unsupported("the engine's process logs warnings and errors"),
}
