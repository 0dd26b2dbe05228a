"""Layers for bfloat16 on a CPU: weights in oneDNN's own layout, made once at load, and products that also apply
the activation, multiply by the gate or add the residual before they round and write.

These operators are the ones that TorchInductor emits for frozen weights; a torch without them uses the plain layers.
"""

from __future__ import annotations

import torch
from torch import Tensor

from enginebay.engine.attention import PlainAttention
from enginebay.engine.held_weights import HeldWeights, Part
from enginebay.engine.layers import Affine, LayerByLayer, PlainEmbedding, ResidualLayer
from enginebay.engine.model_config import Activation

POST_OPERATIONS: dict[Activation, tuple[str, str]] = {
    "silu": ("swish", ""),
    "gelu": ("gelu", "none"),
    "gelu_pytorch_tanh": ("gelu", "tanh"),
    "relu": ("relu", ""),
}


def packing_is_available(device: torch.device, dtype: torch.dtype) -> bool:
    operators = torch.ops.mkldnn
    return (
        device.type == "cpu"
        and dtype == torch.bfloat16
        and torch.backends.mkldnn.is_available()
        and all(hasattr(operators, name) for name in ("_reorder_linear_weight", "_linear_pointwise"))
        and bool(operators._is_mkldnn_bf16_supported())
    )


class PackedLayers:
    name = "packed"
    stack = LayerByLayer

    def __init__(self) -> None:
        self.held = HeldWeights()

    def embedding(self, weight: Tensor) -> PackedEmbedding:
        self.held.add("embedding", "plain", weight)
        return PackedEmbedding(weight, self)

    def attention_kernel(self) -> PlainAttention:
        return PlainAttention()

    def rms_norm(self, weight: Tensor, eps: float) -> Float32RmsNorm:
        norm = Float32RmsNorm(weight, eps)
        self.held.add("norm", "float32", norm.weight)
        return norm

    def linear(self, affine: Affine, *, part: Part = "linear") -> PackedLinear:
        layer = PackedLinear(affine)
        self.held.add(part, "oneDNN", layer.packed, affine.bias)
        return layer

    def gated_mlp(self, gate: Affine, up: Affine, *, down: Affine, activation: Activation) -> PackedGatedMlp:
        return PackedGatedMlp(self.linear(gate), self.linear(up), self.linear(down), activation)


class PackedEmbedding(PlainEmbedding):
    """The packed layout cannot be gathered from: a head of the same weight is a second copy of it."""

    def __init__(self, weight: Tensor, layers: PackedLayers) -> None:
        super().__init__(weight)
        self._layers = layers

    def head(self) -> ResidualLayer:
        return self._layers.linear(Affine(self.weight), part="head")


class PackedLinear:
    def __init__(self, affine: Affine) -> None:
        weight, self._bias = affine
        self.packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(hidden, self.packed, self._bias, "none", [], "")

    def forward_activated(self, hidden: Tensor, activation: Activation) -> Tensor:
        name, algorithm = POST_OPERATIONS[activation]
        return torch.ops.mkldnn._linear_pointwise(hidden, self.packed, self._bias, name, [], algorithm)

    def forward_multiplied(self, hidden: Tensor, factor: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(hidden, factor, self.packed, self._bias, "mul")

    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(hidden, residual, self.packed, self._bias, "add")


class PackedGatedMlp:
    def __init__(self, gate: PackedLinear, up: PackedLinear, down: PackedLinear, activation: Activation) -> None:
        self._gate, self._up, self._down = gate, up, down
        self._activation: Activation = activation

    def forward(self, hidden: Tensor) -> Tensor:
        return self._down.forward(self._inner(hidden))

    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self._down.forward_added(self._inner(hidden), residual)

    def _inner(self, hidden: Tensor) -> Tensor:
        return self._up.forward_multiplied(hidden, self._gate.forward_activated(hidden, self._activation))


class Float32RmsNorm:
    """One conversion to float32 and products in place: PyTorch's own takes twice as long on a long prompt."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight, self._eps, self._dtype = weight.float(), eps, weight.dtype

    def forward(self, hidden: Tensor) -> Tensor:
        exact = hidden.to(torch.float32, copy=True)
        norm = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
        scale = norm.square_().mul_(1 / hidden.shape[-1]).add_(self._eps).rsqrt_()
        return exact.mul_(scale).mul_(self.weight).to(self._dtype)
