"""Activations that are easier to quantise: a few input channels are far larger than the rest, and one scale for a whole
row leaves the others few steps. Each channel is divided by a factor where it is made (the norm before, or the rows of
`up_proj`), and the weights that read it are multiplied by the same: the model computes what it did before.

Factors are powers of two, so nothing rounds. They balance the largest value of a channel, seen while the model reads a
short text, with the largest weight that reads it. Source: Xiao et al. 2022, SmoothQuant, alpha 0.5 (arXiv:2211.10438).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from enginebay.engine.layers import Embedding, LayerFactory, ResidualLayer
from enginebay.engine.model import CausalLM
from enginebay.engine.model_config import ModelConfig
from enginebay.engine.smoothing_factors import find_factors
from enginebay.engine.weights import Checkpoint


class SmoothedCheckpoint(Checkpoint):
    """The same tensors with the factors in them; those of a tied head's norm are undone behind the embedding."""

    def __init__(
        self, model_dir: Path, *, dtype: torch.dtype, device: torch.device, factors: dict[str, Tensor], is_tied: bool
    ) -> None:
        super().__init__(model_dir, dtype=dtype, device=device)
        self._factors = factors
        self._is_tied = is_tied

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        tensor = super().take(name, shape)
        made, read = made_by(name), read_by(name, is_tied=self._is_tied)
        if made in self._factors:
            factors = self._factors[made].to(tensor)
            tensor.div_(factors if tensor.dim() == 1 else factors[:, None])
        return tensor.mul_(self._factors[read].to(tensor)) if read in self._factors else tensor

    def take_copy_of(self, name: str, original: Tensor) -> None:
        super().take_copy_of(name, original / self._factors["head"].to(original))


class SmoothedEmbedding:
    def __init__(self, embedding: Embedding, factors: Tensor) -> None:
        self._embedding, self._inverse = embedding, 1 / factors

    def forward(self, token_ids: Tensor) -> Tensor:
        return self._embedding.forward(token_ids).mul_(self._inverse)

    def head(self) -> ResidualLayer:
        return self._embedding.head()


def load_smoothed(
    model_dir: Path, config: ModelConfig, layers: LayerFactory, *, dtype: torch.dtype, device: torch.device
) -> tuple[CausalLM, int]:
    """As `load_model`."""
    factors = find_factors(model_dir, config, dtype=dtype, device=device)
    is_tied = config.tie_word_embeddings
    weights = SmoothedCheckpoint(model_dir, dtype=dtype, device=device, factors=factors, is_tied=is_tied)
    with torch.inference_mode(), weights:
        model = CausalLM(config, weights, layers=layers, dtype=dtype, device=device)
        if is_tied:
            model.embedding = SmoothedEmbedding(model.embedding, factors["head"].to(dtype))
        return model, weights.num_bytes


# ---------------------------------------------------------------- which tensors

_READERS = {
    "self_attn.q_proj": "qkv", "self_attn.k_proj": "qkv", "self_attn.v_proj": "qkv",
    "mlp.gate_proj": "gate_up", "mlp.up_proj": "gate_up", "mlp.down_proj": "down",
}  # fmt: skip
_MAKERS = {
    "input_layernorm.weight": "qkv", "post_attention_layernorm.weight": "gate_up",
    "mlp.up_proj.weight": "down", "mlp.up_proj.bias": "down",
}  # fmt: skip


def made_by(name: str) -> str | None:
    """The channels that the tensor's outputs are: "3.down" for layer 3, or "head"."""
    if name == "model.norm.weight":
        return "head"
    return _of_layer(name, _MAKERS, rest_of=lambda rest: rest)


def read_by(name: str, *, is_tied: bool) -> str | None:
    """The channels that the tensor's inputs are."""
    if name == ("model.embed_tokens.weight" if is_tied else "lm_head.weight"):
        return "head"
    return _of_layer(name, _READERS, rest_of=lambda rest: rest.removesuffix(".weight"))


def _of_layer(name: str, table: dict[str, str], *, rest_of: Callable[[str], str]) -> str | None:
    if not name.startswith("model.layers."):
        return None
    index, _, rest = name.removeprefix("model.layers.").partition(".")
    group = table.get(rest_of(rest))
    return None if group is None else f"{index}.{group}"
