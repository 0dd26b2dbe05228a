"""The Llama family: one class for each concept. Rows are tokens of any sequences; there is no batch dimension."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from pathlib import Path

import torch
from torch import Tensor

from enginebay.engine.attention import AttentionInput
from enginebay.engine.layer_cache import LayerCache
from enginebay.engine.layers import Affine, Embedding, LayerFactory, ResidualLayer, joined
from enginebay.engine.model_config import ModelConfig
from enginebay.engine.rope import RotaryEmbedding
from enginebay.engine.step_input import StepInput
from enginebay.engine.weights import Checkpoint


class CausalLM:
    """A step's tokens in, hidden states out; `logits` only for the rows that are asked for."""

    def __init__(
        self,
        config: ModelConfig,
        weights: Checkpoint,
        *,
        layers: LayerFactory,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._vocab_size = config.vocab_size
        weight = weights.take("model.embed_tokens.weight", (config.vocab_size, config.hidden_size))
        self.embedding: Embedding = layers.embedding(weight)
        self.layers = [DecoderLayer(config, weights, index, layers=layers) for index in range(config.num_layers)]
        self._stack_of = layers.stack
        self.stack = layers.stack(self.layers)
        self.norm = layers.rms_norm(weights.take("model.norm.weight", (config.hidden_size,)), config.rms_norm_eps)
        self.head = self._head(config, weights, layers, tied_weight=weight)
        self.rope = RotaryEmbedding(config.rope, config.head_dim, dtype=dtype, device=device)

    def _head(
        self, config: ModelConfig, weights: Checkpoint, layers: LayerFactory, *, tied_weight: Tensor
    ) -> ResidualLayer:
        if not config.tie_word_embeddings:
            weight = weights.take("lm_head.weight", (config.vocab_size, config.hidden_size))
            return layers.linear(Affine(weight), part="head")
        if "lm_head.weight" in weights:
            weights.take_copy_of("lm_head.weight", tied_weight)
        return self.embedding.head()

    @property
    def reads_paged_rows(self) -> bool:
        """The form of `AttentionInput` that its layers read."""
        return self.layers[0].attention.kernel.reads_paged_rows

    def first_layers(self, num_layers: int) -> CausalLM:
        """The same model, cut off behind its first layers; the weights are shared."""
        cut = copy(self)
        cut.layers = self.layers[:num_layers]
        cut.stack = self._stack_of(cut.layers)
        return cut

    def forward(self, step: StepInput, caches: Sequence[LayerCache]) -> Tensor:
        """(num_rows, hidden_size), before the last norm; writes keys and values into the caches."""
        hidden = self.embedding.forward(step.token_ids)
        angles = self.rope.cos_sin(step.positions, step.context_lens)
        return self.stack.forward(hidden, angles, caches=caches, step=step.attention)

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, hidden_size) -> (n, vocab_size) float32."""
        if len(hidden) == 0:
            return hidden.new_empty((0, self._vocab_size), dtype=torch.float32)
        return self.head.forward(self.norm.forward(hidden)).float()


def load_model(
    model_dir: Path, config: ModelConfig, layers: LayerFactory, *, dtype: torch.dtype, device: torch.device
) -> tuple[CausalLM, int]:
    """The model, and the bytes of its weights as they are read. Raises ModelError."""
    with torch.inference_mode(), Checkpoint(model_dir, dtype=dtype, device=device) as weights:
        return CausalLM(config, weights, layers=layers, dtype=dtype, device=device), weights.num_bytes


class DecoderLayer:
    def __init__(self, config: ModelConfig, weights: Checkpoint, index: int, *, layers: LayerFactory) -> None:
        prefix, shape, eps = f"model.layers.{index}", (config.hidden_size,), config.rms_norm_eps
        self.attention_norm = layers.rms_norm(weights.take(f"{prefix}.input_layernorm.weight", shape), eps)
        self.attention = Attention(config, weights, index, layers=layers)
        self.mlp_norm = layers.rms_norm(weights.take(f"{prefix}.post_attention_layernorm.weight", shape), eps)
        inner, bias = config.intermediate_size, config.mlp_bias
        self.mlp = layers.gated_mlp(
            take_affine(weights, f"{prefix}.mlp.gate_proj", (inner, config.hidden_size), bias=bias),
            take_affine(weights, f"{prefix}.mlp.up_proj", (inner, config.hidden_size), bias=bias),
            down=take_affine(weights, f"{prefix}.mlp.down_proj", (config.hidden_size, inner), bias=bias),
            activation=config.activation,
        )

    def forward(
        self, hidden: Tensor, angles: tuple[Tensor, Tensor], *, cache: LayerCache, step: AttentionInput
    ) -> Tensor:
        attended = self.attention.forward(self.attention_norm.forward(hidden), angles, cache=cache, step=step)
        hidden = self.attention.output.forward_added(attended, hidden)
        return self.mlp.forward_added(self.mlp_norm.forward(hidden), hidden)


class Attention:
    """`output` is applied by the layer, which adds the residual in the same product."""

    def __init__(self, config: ModelConfig, weights: Checkpoint, index: int, *, layers: LayerFactory) -> None:
        prefix, head_dim = f"model.layers.{index}.self_attn", config.head_dim
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, head_dim
        self.window = config.sliding_windows[index]
        queries, keys = config.num_heads * head_dim, config.num_kv_heads * head_dim
        projections = {"q_proj": queries, "k_proj": keys, "v_proj": keys}
        parts = [
            take_affine(weights, f"{prefix}.{name}", (out, config.hidden_size), bias=config.qkv_bias)
            for name, out in projections.items()
        ]
        self.qkv = layers.linear(joined(*parts))
        output_shape = (config.hidden_size, queries)
        self.output = layers.linear(take_affine(weights, f"{prefix}.o_proj", output_shape, bias=config.output_bias))
        self.kernel = layers.attention_kernel()
        self.query_norm = self.key_norm = None
        if config.qk_norm:
            eps = config.rms_norm_eps
            self.query_norm = layers.rms_norm(weights.take(f"{prefix}.q_norm.weight", (head_dim,)), eps)
            self.key_norm = layers.rms_norm(weights.take(f"{prefix}.k_norm.weight", (head_dim,)), eps)

    def forward(
        self, hidden: Tensor, angles: tuple[Tensor, Tensor], *, cache: LayerCache, step: AttentionInput
    ) -> Tensor:
        """(num_rows, num_heads * head_dim)"""
        qkv = self.qkv.forward(hidden).view(hidden.shape[0], -1, self.head_dim)
        return self.kernel.attend(
            self._normed(qkv), angles, num_heads=self.num_heads, cache=cache, step=step, window=self.window
        )

    def _normed(self, qkv: Tensor) -> Tensor:
        if self.query_norm is None or self.key_norm is None:
            return qkv
        queries, keys, values = qkv.split((self.num_heads, self.num_kv_heads, self.num_kv_heads), dim=1)
        return torch.cat((self.query_norm.forward(queries), self.key_norm.forward(keys), values), dim=1)


def take_affine(weights: Checkpoint, name: str, shape: tuple[int, int], *, bias: bool) -> Affine:
    weight = weights.take(f"{name}.weight", shape)
    return Affine(weight, weights.take(f"{name}.bias", shape[:1]) if bias else None)
