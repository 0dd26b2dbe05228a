"""The layers that have weights, in plain PyTorch. Faster forms of the same stand in `kernels/`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from enginebay.engine.attention import AttentionInput, AttentionKernel, PlainAttention
from enginebay.engine.held_weights import HeldWeights, Part
from enginebay.engine.layer_cache import LayerCache
from enginebay.engine.model_config import Activation

if TYPE_CHECKING:
    from enginebay.engine.model import DecoderLayer

ACTIVATION_FUNCTIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_pytorch_tanh": lambda hidden: functional.gelu(hidden, approximate="tanh"),
    "relu": functional.relu,
}


class Affine(NamedTuple):
    weight: Tensor
    """(out_features, in_features)"""
    bias: Tensor | None = None


class Layer(Protocol):
    def forward(self, hidden: Tensor) -> Tensor:
        """(num_rows, in_features) -> (num_rows, out_features)"""
        ...


class ResidualLayer(Layer, Protocol):
    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        """forward(hidden) + residual"""
        ...


class Embedding(Protocol):
    def forward(self, token_ids: Tensor) -> Tensor:
        """(num_rows,) -> (num_rows, hidden_size)"""
        ...

    def head(self) -> ResidualLayer:
        """The layer of the same weight that gives logits: for models that tie the two."""
        ...


class LayerStack(Protocol):
    def forward(
        self, hidden: Tensor, angles: tuple[Tensor, Tensor], *, caches: Sequence[LayerCache], step: AttentionInput
    ) -> Tensor:
        """All layers, each with its cache: (num_rows, hidden_size) -> (num_rows, hidden_size)"""
        ...


class LayerFactory(Protocol):
    """Makes the layers of one model; a faster form of them is another factory."""

    name: str

    @property
    def held(self) -> HeldWeights:
        """The weights of all layers made so far."""
        ...

    def embedding(self, weight: Tensor) -> Embedding: ...
    def attention_kernel(self) -> AttentionKernel: ...
    def rms_norm(self, weight: Tensor, eps: float) -> Layer: ...
    def linear(self, affine: Affine, *, part: Part = "linear") -> ResidualLayer: ...
    def gated_mlp(self, gate: Affine, up: Affine, *, down: Affine, activation: Activation) -> ResidualLayer: ...
    def stack(self, layers: Sequence[DecoderLayer], /) -> LayerStack: ...


class LayerByLayer:
    def __init__(self, layers: Sequence[DecoderLayer]) -> None:
        self._layers = layers

    def forward(
        self, hidden: Tensor, angles: tuple[Tensor, Tensor], *, caches: Sequence[LayerCache], step: AttentionInput
    ) -> Tensor:
        for layer, cache in zip(self._layers, caches, strict=True):
            hidden = layer.forward(hidden, angles, cache=cache, step=step)
        return hidden


class PlainLayers:
    name = "plain"
    stack = LayerByLayer

    def __init__(self) -> None:
        self.held = HeldWeights()

    def embedding(self, weight: Tensor) -> PlainEmbedding:
        self.held.add("embedding", "plain", weight)
        return PlainEmbedding(weight)

    def attention_kernel(self) -> PlainAttention:
        return PlainAttention()

    def rms_norm(self, weight: Tensor, eps: float) -> RmsNorm:
        self.held.add("norm", "plain", weight)
        return RmsNorm(weight, eps)

    def linear(self, affine: Affine, *, part: Part = "linear") -> Linear:
        self.held.add(part, "plain", *affine)
        return Linear(affine)

    def gated_mlp(self, gate: Affine, up: Affine, *, down: Affine, activation: Activation) -> GatedMlp:
        return GatedMlp(self.linear(joined(gate, up)), self.linear(down), ACTIVATION_FUNCTIONS[activation])


class PlainEmbedding:
    def __init__(self, weight: Tensor) -> None:
        self.weight = weight

    def forward(self, token_ids: Tensor) -> Tensor:
        return functional.embedding(token_ids, self.weight)

    def head(self) -> ResidualLayer:
        return Linear(Affine(self.weight))


class RmsNorm:
    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight, self._eps = weight, eps

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.rms_norm(hidden, self._weight.shape, self._weight, self._eps)


class Linear:
    def __init__(self, affine: Affine) -> None:
        self.weight, self.bias = affine

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self.weight, self.bias)

    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.forward(hidden) + residual


class GatedMlp:
    def __init__(self, gate_and_up: Layer, down: Layer, activation: Callable[[Tensor], Tensor]) -> None:
        self.gate_and_up, self.down, self._activation = gate_and_up, down, activation

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.gate_and_up.forward(hidden).chunk(2, dim=-1)
        return self.down.forward(self._activation(gate) * up)

    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.forward(hidden) + residual


def joined(*parts: Affine) -> Affine:
    """Several layers of one input as one: a single matrix product."""
    biases = [part.bias for part in parts if part.bias is not None]
    assert len(biases) in (0, len(parts))
    return Affine(torch.cat([part.weight for part in parts]), torch.cat(biases) if biases else None)
