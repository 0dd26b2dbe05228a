"""A tiny Llama with random weights, written without torch."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

VOCAB_SIZE = 96
MAX_MODEL_LEN = 128
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, LAYERS = 32, 48, 4, 2, 2


def write_random_llama(directory: Path, *, vocab_size: int = VOCAB_SIZE, max_model_len: int = MAX_MODEL_LEN) -> Path:
    rng = np.random.default_rng(7)

    def weights(*shape: int) -> np.ndarray:
        return (rng.standard_normal(shape) * 0.3).astype(np.float32)

    head_dim = HIDDEN // HEADS
    tensors = {"model.embed_tokens.weight": weights(vocab_size, HIDDEN), "lm_head.weight": weights(vocab_size, HIDDEN)}
    tensors["model.norm.weight"] = np.ones(HIDDEN, np.float32)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        tensors[prefix + "input_layernorm.weight"] = np.ones(HIDDEN, np.float32)
        tensors[prefix + "post_attention_layernorm.weight"] = np.ones(HIDDEN, np.float32)
        tensors[prefix + "self_attn.q_proj.weight"] = weights(HIDDEN, HIDDEN)
        tensors[prefix + "self_attn.k_proj.weight"] = weights(KV_HEADS * head_dim, HIDDEN)
        tensors[prefix + "self_attn.v_proj.weight"] = weights(KV_HEADS * head_dim, HIDDEN)
        tensors[prefix + "self_attn.o_proj.weight"] = weights(HIDDEN, HIDDEN)
        tensors[prefix + "mlp.gate_proj.weight"] = weights(INTERMEDIATE, HIDDEN)
        tensors[prefix + "mlp.up_proj.weight"] = weights(INTERMEDIATE, HIDDEN)
        tensors[prefix + "mlp.down_proj.weight"] = weights(HIDDEN, INTERMEDIATE)
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / "model.safetensors")
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "max_position_embeddings": max_model_len,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "eos_token_id": 0,
        "torch_dtype": "float32",
    }
    (directory / "config.json").write_text(json.dumps(config))
    return directory
