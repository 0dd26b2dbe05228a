"""A Hugging Face directory's `config.json`, read strictly: what this engine does not know is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from enginebay.engine.rope_config import RopeConfig, read_rope_config
from enginebay.errors import ModelNotFound, UnsupportedModel

Activation = Literal["silu", "gelu", "gelu_pytorch_tanh", "relu"]
ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
}


@dataclass(frozen=True, slots=True)
class Family:
    """In what an architecture differs from Llama."""

    qkv_bias: bool | None = None
    """None: `attention_bias` of the config decides, for the output projection too unless `output_bias` says else."""
    output_bias: bool | None = None
    mlp_bias: bool | None = False
    qk_norm: bool = False
    window: Literal["none", "every layer", "by layer"] = "none"
    max_position_embeddings: int = 32768
    """What transformers takes where the config gives none."""


FAMILIES: dict[str, Family] = {
    "LlamaForCausalLM": Family(mlp_bias=None, max_position_embeddings=2048),
    "MistralForCausalLM": Family(
        qkv_bias=False, output_bias=False, window="every layer", max_position_embeddings=131072
    ),
    "Qwen2ForCausalLM": Family(qkv_bias=True, output_bias=False, window="by layer"),
    "Qwen3ForCausalLM": Family(qk_norm=True, window="by layer"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    activation: Activation
    rms_norm_eps: float
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    tie_word_embeddings: bool
    sliding_windows: tuple[int | None, ...]
    """For each layer, how many tokens a token sees, itself included; None is all before it."""
    rope: RopeConfig
    max_model_len: int
    """The context the model states (`max_position_embeddings`)."""
    eos_token_ids: tuple[int, ...]

    @property
    def longest_context(self) -> int:
        """The most that `max_model_len` of the engine may be set to."""
        return max(self.max_model_len, self.rope.longest_context)


def read_model_config(model_dir: Path) -> ModelConfig:
    """Raises ModelNotFound without a config.json, UnsupportedModel for whatever is unknown in it."""
    config = _read_json(model_dir / "config.json")
    if config is None:
        raise ModelNotFound(f"{model_dir} has no config.json: it is not a Hugging Face model directory")
    architecture = _architecture(config)
    if config.get("quantization_config"):
        raise UnsupportedModel(f"{model_dir}: quantised weights (quantization_config) are not supported")
    generation_config = _read_json(model_dir / "generation_config.json") or {}
    stated = _stated_eos_token_ids(config, generation_config)
    return _model_config(config, architecture, eos_token_ids=_within_vocabulary(stated, _integer(config, "vocab_size")))


def _read_json(path: Path) -> Mapping[str, object] | None:
    if not path.is_file():
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UnsupportedModel(f"{path} is not valid JSON: {error}") from error
    if not isinstance(value, dict):
        raise UnsupportedModel(f"{path} must hold a JSON object")
    return value


def _architecture(config: Mapping[str, object]) -> str:
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and len(names) == 1 else names
    if not isinstance(name, str) or name not in FAMILIES:
        raise UnsupportedModel(f"architecture {name!r} is not supported (supported: {', '.join(FAMILIES)})")
    return name


def _model_config(config: Mapping[str, object], architecture: str, *, eos_token_ids: tuple[int, ...]) -> ModelConfig:
    family = FAMILIES[architecture]
    hidden_size, num_heads = _integer(config, "hidden_size"), _integer(config, "num_attention_heads")
    num_layers = _integer(config, "num_hidden_layers")
    head_dim = _integer(config, "head_dim", 128 if family.qk_norm else hidden_size // num_heads)
    max_model_len = _integer(config, "max_position_embeddings", family.max_position_embeddings)
    attention_bias = bool(config.get("attention_bias", False))
    return ModelConfig(
        architecture=architecture,
        vocab_size=_integer(config, "vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=_integer(config, "intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=_num_kv_heads(config, num_heads),
        head_dim=head_dim,
        activation=_activation(config),
        rms_norm_eps=_number(config, "rms_norm_eps", 1e-6),
        qkv_bias=attention_bias if family.qkv_bias is None else family.qkv_bias,
        output_bias=attention_bias if family.output_bias is None else family.output_bias,
        mlp_bias=bool(config.get("mlp_bias", False)) if family.mlp_bias is None else family.mlp_bias,
        qk_norm=family.qk_norm,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        sliding_windows=_sliding_windows(config, family, num_layers),
        rope=read_rope_config(config, max_position_embeddings=max_model_len, head_dim=head_dim),
        max_model_len=max_model_len,
        eos_token_ids=eos_token_ids,
    )


def _num_kv_heads(config: Mapping[str, object], num_heads: int) -> int:
    num_kv_heads = _integer(config, "num_key_value_heads", num_heads)
    if num_heads % num_kv_heads:
        raise UnsupportedModel(f"{num_heads} attention heads cannot share {num_kv_heads} key-value heads evenly")
    return num_kv_heads


def _activation(config: Mapping[str, object]) -> Activation:
    name = config.get("hidden_act", "silu")
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise UnsupportedModel(f"activation {name!r} is not supported (supported: {', '.join(ACTIVATIONS)})")
    return ACTIVATIONS[name]


def _sliding_windows(config: Mapping[str, object], family: Family, num_layers: int) -> tuple[int | None, ...]:
    layer_types = _layer_types(config, num_layers)
    by_default = None if "sliding_window" in config else 4096
    window = _optional_integer(config, "sliding_window", by_default)
    match family.window:
        case "none":
            windows: tuple[int | None, ...] = (None,) * num_layers
        case "every layer":
            windows = (window,) * num_layers
        case "by layer":
            if not config.get("use_sliding_window", False):
                window = None
            first = _integer(config, "max_window_layers", 28)
            by_index = ["sliding_attention" if index >= first else "full_attention" for index in range(num_layers)]
            slides = [layer_type == "sliding_attention" for layer_type in layer_types or by_index]
            return tuple(window if slide else None for slide in slides)
    if layer_types is not None and [window is not None for window in windows] != [
        layer_type == "sliding_attention" for layer_type in layer_types
    ]:
        raise UnsupportedModel("layer_types in config.json contradict what this architecture computes in each layer")
    return windows


def _layer_types(config: Mapping[str, object], num_layers: int) -> list[object] | None:
    layer_types = config.get("layer_types")
    if layer_types is None:
        return None
    if not isinstance(layer_types, list) or len(layer_types) != num_layers:
        raise UnsupportedModel(f"layer_types in config.json must be a list of {num_layers} names")
    if unknown := {str(name) for name in layer_types} - {"full_attention", "sliding_attention"}:
        raise UnsupportedModel(f"unknown layer types in config.json: {', '.join(sorted(unknown))}")
    return layer_types


def _stated_eos_token_ids(config: Mapping[str, object], generation_config: Mapping[str, object]) -> tuple[int, ...]:
    """Those of generation_config.json where it has any, as in transformers."""
    for source in (generation_config, config):
        value = source.get("eos_token_id")
        ids = [token_id for token_id in (value if isinstance(value, list) else [value]) if isinstance(token_id, int)]
        if ids:
            return tuple(ids)
    return ()


def _within_vocabulary(eos_token_ids: tuple[int, ...], vocab_size: int) -> tuple[int, ...]:
    """Those that the model can give: a larger id ends nothing, and is left out as long as another one is there."""
    within = tuple(token_id for token_id in eos_token_ids if token_id < vocab_size)
    if any(token_id < 0 for token_id in eos_token_ids) or (eos_token_ids and not within):
        raise UnsupportedModel(f"eos_token_id {list(eos_token_ids)} is outside the vocabulary of {vocab_size} tokens")
    return within


def _integer(config: Mapping[str, object], key: str, default: int | None = None) -> int:
    value = _optional_integer(config, key, default)
    if value is None:
        raise UnsupportedModel(f"config.json does not give {key!r}")
    return value


def _optional_integer(config: Mapping[str, object], key: str, default: int | None) -> int | None:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < (0 if key == "max_window_layers" else 1):
        raise UnsupportedModel(f"{key!r} in config.json must be a positive whole number, not {value!r}")
    return value


def _number(config: Mapping[str, object], key: str, default: float) -> float:
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnsupportedModel(f"{key!r} in config.json must be a number, not {value!r}")
    return float(value)
