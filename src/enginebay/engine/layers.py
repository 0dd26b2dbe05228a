"""The layers that have weights, in plain PyTorch. Faster forms of the same stand in `kernels/`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from enginebay.engine.model_config import Activation

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


class LayerFactory(Protocol):
    copies_weights: bool
    """The layers keep the weights in a layout of their own: a tied embedding is held twice."""

    def rms_norm(self, weight: Tensor, eps: float) -> Layer: ...
    def linear(self, affine: Affine) -> ResidualLayer: ...
    def gated_mlp(self, gate: Affine, up: Affine, *, down: Affine, activation: Activation) -> ResidualLayer: ...


class PlainLayers:
    copies_weights = False

    def rms_norm(self, weight: Tensor, eps: float) -> RmsNorm:
        return RmsNorm(weight, eps)

    def linear(self, affine: Affine) -> Linear:
        return Linear(affine)

    def gated_mlp(self, gate: Affine, up: Affine, *, down: Affine, activation: Activation) -> GatedMlp:
        return GatedMlp(Linear(joined(gate, up)), Linear(down), ACTIVATION_FUNCTIONS[activation])


class RmsNorm:
    def __init__(self, weight: Tensor, eps: float) -> None:
        self._weight, self._eps = weight, eps

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.rms_norm(hidden, self._weight.shape, self._weight, self._eps)


class Linear:
    def __init__(self, affine: Affine) -> None:
        self._weight, self._bias = affine

    def forward(self, hidden: Tensor) -> Tensor:
        return functional.linear(hidden, self._weight, self._bias)

    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.forward(hidden) + residual


class GatedMlp:
    def __init__(self, gate_and_up: Linear, down: Linear, activation: Callable[[Tensor], Tensor]) -> None:
        self._gate_and_up, self._down, self._activation = gate_and_up, down, activation

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self._gate_and_up.forward(hidden).chunk(2, dim=-1)
        return self._down.forward(self._activation(gate) * up)

    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.forward(hidden) + residual


def joined(*parts: Affine) -> Affine:
    """Several layers of one input as one: a single matrix product."""
    biases = [part.bias for part in parts if part.bias is not None]
    assert len(biases) in (0, len(parts))
    return Affine(torch.cat([part.weight for part in parts]), torch.cat(biases) if biases else None)
