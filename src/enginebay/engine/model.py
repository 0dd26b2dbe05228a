"""The Llama family: one class for each concept. Rows are tokens of any sequences; there is no batch dimension."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from enginebay.engine.attention import AttentionInput, paged_attention
from enginebay.engine.kv_cache import LayerCache
from enginebay.engine.model_config import Activation, ModelConfig
from enginebay.engine.rope import RotaryEmbedding, rotate
from enginebay.engine.step_input import StepInput
from enginebay.engine.weights import Checkpoint

ACTIVATION_FUNCTIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": lambda hidden: functional.gelu(hidden, approximate="tanh"),
    "relu": functional.relu,
}


class CausalLM:
    """A step's tokens in, hidden states out; `logits` only for the rows that are asked for."""

    def __init__(self, config: ModelConfig, weights: Checkpoint, *, dtype: torch.dtype, device: torch.device) -> None:
        vocabulary = (config.vocab_size, config.hidden_size)
        self.embedding = weights.take("model.embed_tokens.weight", vocabulary)
        self.layers = [DecoderLayer(config, weights, index) for index in range(config.num_layers)]
        self.norm = RmsNorm(weights.take("model.norm.weight", (config.hidden_size,)), config.rms_norm_eps)
        self.head = Linear(self._head_weight(config, weights, vocabulary))
        self.rope = RotaryEmbedding(config.rope, config.head_dim, dtype=dtype, device=device)

    def _head_weight(self, config: ModelConfig, weights: Checkpoint, shape: tuple[int, int]) -> Tensor:
        if not config.tie_word_embeddings:
            return weights.take("lm_head.weight", shape)
        if "lm_head.weight" in weights:
            weights.take_copy_of("lm_head.weight", self.embedding)
        return self.embedding

    def forward(self, step: StepInput, caches: Sequence[LayerCache]) -> Tensor:
        """(num_rows, hidden_size), before the last norm; writes keys and values into the caches."""
        hidden = functional.embedding(step.token_ids, self.embedding)
        angles = self.rope.cos_sin(step.positions, step.context_lens)
        for layer, cache in zip(self.layers, caches, strict=True):
            hidden = layer.forward(hidden, angles, cache=cache, step=step.attention)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, hidden_size) -> (n, vocab_size) float32."""
        return self.head.forward(self.norm.forward(hidden)).float()


class DecoderLayer:
    def __init__(self, config: ModelConfig, weights: Checkpoint, index: int) -> None:
        prefix, shape = f"model.layers.{index}", (config.hidden_size,)
        self.attention_norm = RmsNorm(weights.take(f"{prefix}.input_layernorm.weight", shape), config.rms_norm_eps)
        self.attention = Attention(config, weights, index)
        self.mlp_norm = RmsNorm(weights.take(f"{prefix}.post_attention_layernorm.weight", shape), config.rms_norm_eps)
        self.mlp = Mlp(config, weights, f"{prefix}.mlp")

    def forward(
        self, hidden: Tensor, angles: tuple[Tensor, Tensor], *, cache: LayerCache, step: AttentionInput
    ) -> Tensor:
        attended = self.attention.forward(self.attention_norm.forward(hidden), angles, cache=cache, step=step)
        hidden = hidden + attended
        return hidden + self.mlp.forward(self.mlp_norm.forward(hidden))


class Attention:
    def __init__(self, config: ModelConfig, weights: Checkpoint, index: int) -> None:
        prefix, head_dim = f"model.layers.{index}.self_attn", config.head_dim
        self.num_heads, self.num_kv_heads, self.head_dim = config.num_heads, config.num_kv_heads, head_dim
        self.window = config.sliding_windows[index]
        queries, keys = config.num_heads * head_dim, config.num_kv_heads * head_dim
        self.qkv = fused_linear(
            weights,
            {f"{prefix}.q_proj": queries, f"{prefix}.k_proj": keys, f"{prefix}.v_proj": keys},
            in_features=config.hidden_size,
            bias=config.qkv_bias,
        )
        self.output = fused_linear(
            weights, {f"{prefix}.o_proj": config.hidden_size}, in_features=queries, bias=config.output_bias
        )
        self.query_norm = self.key_norm = None
        if config.qk_norm:
            eps = config.rms_norm_eps
            self.query_norm = RmsNorm(weights.take(f"{prefix}.q_norm.weight", (head_dim,)), eps)
            self.key_norm = RmsNorm(weights.take(f"{prefix}.k_norm.weight", (head_dim,)), eps)

    def forward(
        self, hidden: Tensor, angles: tuple[Tensor, Tensor], *, cache: LayerCache, step: AttentionInput
    ) -> Tensor:
        qkv = self.qkv.forward(hidden).view(hidden.shape[0], -1, self.head_dim)
        queries_and_keys, values = qkv.split((self.num_heads + self.num_kv_heads, self.num_kv_heads), dim=1)
        queries_and_keys = rotate(self._normed(queries_and_keys), *angles)
        queries, keys = queries_and_keys.split((self.num_heads, self.num_kv_heads), dim=1)
        attended = paged_attention(queries, keys, values, cache=cache, step=step, window=self.window)
        return self.output.forward(attended)

    def _normed(self, queries_and_keys: Tensor) -> Tensor:
        if self.query_norm is None or self.key_norm is None:
            return queries_and_keys
        queries, keys = queries_and_keys.split((self.num_heads, self.num_kv_heads), dim=1)
        return torch.cat((self.query_norm.forward(queries), self.key_norm.forward(keys)), dim=1)


class Mlp:
    def __init__(self, config: ModelConfig, weights: Checkpoint, prefix: str) -> None:
        inner, bias = config.intermediate_size, config.mlp_bias
        self.gate_and_up = fused_linear(
            weights,
            {f"{prefix}.gate_proj": inner, f"{prefix}.up_proj": inner},
            in_features=config.hidden_size,
            bias=bias,
        )
        self.down = fused_linear(weights, {f"{prefix}.down_proj": config.hidden_size}, in_features=inner, bias=bias)
        self.activation = ACTIVATION_FUNCTIONS[config.activation]

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.gate_and_up.forward(hidden).chunk(2, dim=-1)
        return self.down.forward(self.activation(gate) * up)


class RmsNorm:
    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight, self.eps = weight, eps

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.rms_norm(hidden, self.weight.shape, self.weight, self.eps)


class Linear:
    """weight: (out_features, in_features)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight, self.bias = weight, bias

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.weight, self.bias)


def fused_linear(weights: Checkpoint, out_features: dict[str, int], *, in_features: int, bias: bool) -> Linear:
    """The projections of one input as one matrix; `out_features` by the projection's name, in order."""
    weight = weights.take_fused(
        [f"{name}.weight" for name in out_features], [(out, in_features) for out in out_features.values()]
    )
    if not bias:
        return Linear(weight)
    return Linear(
        weight, weights.take_fused([f"{name}.bias" for name in out_features], [(n,) for n in out_features.values()])
    )
