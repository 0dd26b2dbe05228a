"""Tiny random models in Hugging Face directories, written by transformers: one for each family and rope type."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB_SIZE = 160
CLASSES = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
SIZES: dict[str, object] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "eos_token_id": 2,
    "bos_token_id": 1,
}


@dataclass(frozen=True)
class TinyModel:
    family: str
    settings: dict[str, object] = field(default_factory=dict)

    def write(self, directory: Path, *, max_shard_size: str = "50GB") -> PreTrainedModel:
        """Biases and norms get random values too: at their initial ones a forgotten norm could not be seen."""
        torch.manual_seed(len(json.dumps(self.settings)))
        config_class, model_class = CLASSES[self.family]
        config = config_class(**{**SIZES, **self.settings})
        config._attn_implementation = "sdpa"
        model = model_class(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.3)
                else:
                    parameter.mul_(6)
        model.save_pretrained(directory, max_shard_size=max_shard_size)
        return model


def edit_config(directory: Path, **changes: object) -> None:
    """Write values into config.json; ... removes one."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        config.pop(key, None)
        if value is not ...:
            config[key] = value
    path.write_text(json.dumps(config), encoding="utf-8")


FAMILIES = {
    "llama": TinyModel("llama"),
    "llama, tied embeddings": TinyModel("llama", {"tie_word_embeddings": True}),
    "llama, attention and mlp biases": TinyModel("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, one key head for each query head": TinyModel("llama", {"num_key_value_heads": 6}),
    "llama, wide heads": TinyModel("llama", {"head_dim": 16}),
    "llama, gelu": TinyModel("llama", {"hidden_act": "gelu"}),
    "llama, tanh gelu": TinyModel("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "llama, relu": TinyModel("llama", {"hidden_act": "relu"}),
    "mistral, no window": TinyModel("mistral", {"sliding_window": None}),
    "mistral, sliding window": TinyModel("mistral", {"sliding_window": 20}),
    "qwen2": TinyModel("qwen2"),
    "qwen2, window in the upper layers": TinyModel(
        "qwen2", {"use_sliding_window": True, "sliding_window": 20, "max_window_layers": 1}
    ),
    "qwen2, layer types": TinyModel(
        "qwen2",
        {
            "use_sliding_window": True,
            "sliding_window": 20,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "qwen3": TinyModel("qwen3", {"head_dim": 16}),
    "qwen3, biases and a window": TinyModel(
        "qwen3",
        {
            "head_dim": 16,
            "attention_bias": True,
            "use_sliding_window": True,
            "sliding_window": 20,
            "max_window_layers": 2,
        },
    ),
}


def _with_rope(**parameters: object) -> TinyModel:
    return TinyModel("llama", {"rope_parameters": {"rope_theta": 5000.0, **parameters}})


ROPE_TYPES = {
    "default": _with_rope(rope_type="default"),
    "linear": _with_rope(rope_type="linear", factor=4.0),
    "dynamic": _with_rope(rope_type="dynamic", factor=2.0),
    "yarn": _with_rope(rope_type="yarn", factor=4.0, original_max_position_embeddings=24),
    "yarn, every parameter": _with_rope(
        rope_type="yarn",
        factor=4.0,
        original_max_position_embeddings=24,
        beta_fast=16.0,
        beta_slow=2.0,
        mscale=0.7,
        mscale_all_dim=0.4,
        truncate=False,
    ),
    "yarn, attention factor": _with_rope(
        rope_type="yarn", factor=4.0, original_max_position_embeddings=24, attention_factor=1.3
    ),
    "longrope": _with_rope(
        rope_type="longrope",
        factor=3.0,
        original_max_position_embeddings=32,
        short_factor=[1.0, 1.1, 1.2, 1.3],
        long_factor=[1.5, 2.0, 3.0, 4.0],
    ),
    "llama3": _with_rope(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=48
    ),
}
