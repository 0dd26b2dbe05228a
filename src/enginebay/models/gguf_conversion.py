"""A GGUF file of the Llama architecture to an ordinary Hugging Face directory.

Three things differ between the two forms: tensor names, the order of the rows of q and k (GGUF stores them for
rotary embedding of neighbouring pairs, Hugging Face for pairs half a head apart), and quantisation, which is
expanded and stored as bfloat16.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enginebay.errors import UnsupportedModel
from enginebay.models.gguf_file import GgufFile
from enginebay.models.gguf_tokenizer import write_tokenizer
from enginebay.models.json_file import write_json
from enginebay.models.progress import ProgressCallback, PullProgress, ignore_progress
from enginebay.models.safetensors_file import write_bfloat16

OUTER_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
LAYER_TENSOR = re.compile(r"blk\.(?P<layer>\d+)\.(?P<part>\w+)\.weight")


def convert_gguf(gguf_path: Path, directory: Path, *, progress: ProgressCallback = ignore_progress) -> None:
    """Write config, generation config, tokenizer and weights into `directory`, which must exist and be empty.

    Raises UnsupportedModel for another architecture, rope scaling, tokenizer, quantisation or unknown tensor.
    """
    gguf = GgufFile(gguf_path)
    config = llama_config(gguf)
    write_json(directory / "config.json", config)
    write_json(directory / "generation_config.json", generation_config(config))
    write_tokenizer(gguf, directory)
    _write_weights(gguf, directory / "model.safetensors", progress)


def llama_config(gguf: GgufFile) -> dict[str, object]:
    architecture = gguf.text("general.architecture")
    if architecture != "llama":
        raise UnsupportedModel(f"{gguf.path}: cannot convert the GGUF architecture {architecture!r}, only 'llama'")
    scaling = gguf.text_or("llama.rope.scaling.type", None)
    if scaling not in (None, "none"):
        raise UnsupportedModel(f"{gguf.path}: cannot convert the rope scaling {scaling!r}")
    hidden_size, num_heads = gguf.integer("llama.embedding_length"), gguf.integer("llama.attention.head_count")
    shapes = gguf.shapes()
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": gguf.integer("tokenizer.ggml.bos_token_id"),
        "eos_token_id": gguf.integer("tokenizer.ggml.eos_token_id"),
        "pad_token_id": gguf.integer_or("tokenizer.ggml.padding_token_id", None),
        "head_dim": gguf.integer_or("llama.rope.dimension_count", hidden_size // num_heads),
        "hidden_act": "silu",
        "hidden_size": hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": gguf.integer("llama.feed_forward_length"),
        "max_position_embeddings": gguf.integer("llama.context_length"),
        "mlp_bias": False,
        "num_attention_heads": num_heads,
        "num_hidden_layers": gguf.integer("llama.block_count"),
        "num_key_value_heads": gguf.integer_or("llama.attention.head_count_kv", num_heads),
        "rms_norm_eps": gguf.number("llama.attention.layer_norm_rms_epsilon"),
        "rope_scaling": None,
        "rope_theta": gguf.number("llama.rope.freq_base"),
        "tie_word_embeddings": "output.weight" not in shapes,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shapes["token_embd.weight"][0],
    }


def generation_config(config: dict[str, object]) -> dict[str, object]:
    token_ids = {key: config[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {"_from_model_config": True, **token_ids}


def hugging_face_name(gguf_name: str) -> str:
    if gguf_name in OUTER_NAMES:
        return OUTER_NAMES[gguf_name]
    match = LAYER_TENSOR.fullmatch(gguf_name)
    if match is None or match["part"] not in LAYER_NAMES:
        raise UnsupportedModel(f"the GGUF tensor {gguf_name!r} has no place in a Llama model")
    return f"model.layers.{match['layer']}.{LAYER_NAMES[match['part']]}.weight"


def unpermute(rows: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """Undo the row order of GGUF: within each head, rows (0, d/2, 1, d/2 + 1, ...) back to (0, 1, ..., d - 1).

    rows: (num_heads * d, hidden), the q or k projection. Source: `LlamaModel.permute` in llama.cpp's
    convert_hf_to_gguf.py, of which this is the inverse.
    """
    half = rows.shape[0] // num_heads // 2
    return rows.reshape(num_heads, half, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _write_weights(gguf: GgufFile, path: Path, progress: ProgressCallback) -> None:
    shapes = {hugging_face_name(name): shape for name, shape in gguf.shapes().items()}
    write_bfloat16(path, shapes, _renamed_tensors(gguf, progress))


def _renamed_tensors(gguf: GgufFile, progress: ProgressCallback) -> Iterator[tuple[str, NDArray[np.float32]]]:
    num_heads = gguf.integer("llama.attention.head_count")
    num_kv_heads = gguf.integer_or("llama.attention.head_count_kv", num_heads)
    for num_done, tensor in enumerate(gguf.tensors()):
        progress(PullProgress("converting weights", num_done, gguf.num_tensors, "tensors"))
        values = tensor.values
        if tensor.name.endswith(".attn_q.weight"):
            values = unpermute(values, num_heads)
        elif tensor.name.endswith(".attn_k.weight"):
            values = unpermute(values, num_kv_heads)
        yield hugging_face_name(tensor.name), values
    progress(PullProgress("converting weights", gguf.num_tensors, gguf.num_tensors, "tensors"))
