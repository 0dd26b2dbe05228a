"""A tiny Llama model as a GGUF file, written with the `gguf` library, beside the weights that it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import dequantize, quantize
from tokenizers.pre_tokenizers import ByteLevel

HIDDEN, HEADS, KV_HEADS, HEAD_DIM, LAYERS, FEED_FORWARD = 64, 4, 2, 16, 2, 96
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w"]
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
)


def vocabulary() -> list[str]:
    merged = [merge.replace(" ", "") for merge in MERGES]
    return SPECIAL + sorted(ByteLevel.alphabet()) + merged


@dataclass(frozen=True)
class TinyModel:
    gguf: Path
    weights: dict[str, np.ndarray]
    """By Hugging Face name, as they were before GGUF's row order and quantisation of some of them was undone."""


def llama_cpp_permute(weights: np.ndarray, num_heads: int) -> np.ndarray:
    """What llama.cpp does to q and k when it writes a GGUF file."""
    return (
        weights.reshape(num_heads, 2, weights.shape[0] // num_heads // 2, *weights.shape[1:])
        .swapaxes(1, 2)
        .reshape(weights.shape)
    )


def write_tiny_gguf(
    path: Path, *, architecture: str = "llama", pre_tokenizer: str = "smollm", extra_tensor: str | None = None
) -> TinyModel:
    random = np.random.default_rng(7)
    writer = GGUFWriter(path, architecture)
    _write_metadata(writer, pre_tokenizer)
    weights: dict[str, np.ndarray] = {}

    def add(gguf_name: str, name: str, *shape: int, heads: int = 0, kind: str = "F32") -> None:
        values = random.standard_normal(shape, dtype=np.float32)
        stored = quantize(
            llama_cpp_permute(values, heads) if heads else values, quantization := GGMLQuantizationType[kind]
        )
        seen = dequantize(stored, quantization).reshape(shape)
        # What a reader can know: the quantised values, in the order of the original rows.
        weights[name] = _undone(seen, heads) if heads else seen
        writer.add_tensor(gguf_name, stored, raw_dtype=quantization)

    add("token_embd.weight", "model.embed_tokens.weight", len(vocabulary()), HIDDEN, kind="Q8_0")
    for layer in range(LAYERS):
        ours, theirs = f"blk.{layer}", f"model.layers.{layer}"
        add(f"{ours}.attn_norm.weight", f"{theirs}.input_layernorm.weight", HIDDEN)
        add(f"{ours}.attn_q.weight", f"{theirs}.self_attn.q_proj.weight", HEADS * HEAD_DIM, HIDDEN, heads=HEADS)
        add(f"{ours}.attn_k.weight", f"{theirs}.self_attn.k_proj.weight", KV_HEADS * HEAD_DIM, HIDDEN, heads=KV_HEADS)
        add(f"{ours}.attn_v.weight", f"{theirs}.self_attn.v_proj.weight", KV_HEADS * HEAD_DIM, HIDDEN, kind="Q4_1")
        add(f"{ours}.attn_output.weight", f"{theirs}.self_attn.o_proj.weight", HIDDEN, HEADS * HEAD_DIM, kind="F16")
        add(f"{ours}.ffn_norm.weight", f"{theirs}.post_attention_layernorm.weight", HIDDEN)
        add(f"{ours}.ffn_gate.weight", f"{theirs}.mlp.gate_proj.weight", FEED_FORWARD, HIDDEN, kind="Q4_1")
        add(f"{ours}.ffn_up.weight", f"{theirs}.mlp.up_proj.weight", FEED_FORWARD, HIDDEN, kind="Q4_1")
        add(f"{ours}.ffn_down.weight", f"{theirs}.mlp.down_proj.weight", HIDDEN, FEED_FORWARD, kind="Q4_1")
    add("output_norm.weight", "model.norm.weight", HIDDEN)
    if extra_tensor:
        add(extra_tensor, extra_tensor, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return TinyModel(path, weights)


def _undone(permuted: np.ndarray, num_heads: int) -> np.ndarray:
    """The inverse as an explicit index, so that it shares no code with the conversion."""
    size = permuted.shape[0] // num_heads
    original = np.empty_like(permuted)
    for head in range(num_heads):
        for row in range(size):
            half, offset = divmod(row, size // 2)
            original[head * size + row] = permuted[head * size + 2 * offset + half]
    return original


def _write_metadata(writer: GGUFWriter, pre_tokenizer: str) -> None:
    tokens = vocabulary()
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre_tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
