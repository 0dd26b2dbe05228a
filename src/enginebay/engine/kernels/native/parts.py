"""One layer each on the native kernels: bfloat16 in and out, weights in bfloat16 or int8."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from enginebay.engine.held_weights import HeldWeights
from enginebay.engine.layers import ACTIVATION_FUNCTIONS
from enginebay.engine.model_config import Activation
from enginebay.engine.quantization import quantize_rows

COLUMNS = 16
"""Of a tile."""


class PackedWeight:
    """(out_features, in_features) in tiles, see kernels.cpp."""

    def __init__(self, weight: Tensor, operators: Any, *, is_int8: bool) -> None:
        self.out_features, self.in_features = weight.shape
        self.is_int8 = is_int8
        self.layout = "int8 tiles" if is_int8 else "bfloat16 tiles"
        self.scales = torch.empty(0)
        if not is_int8:
            self.tiles: Tensor = operators.pack_bf16(weight)
            return
        quantized = quantize_rows(weight)
        self.tiles = operators.pack_int8(quantized.values)
        self.scales = torch.zeros(self.tiles.shape[0] * COLUMNS)
        self.scales[: self.out_features] = quantized.scales


class NativeLinear:
    def __init__(self, weight: PackedWeight, bias: Tensor | None, operators: Any) -> None:
        self._weight, self._bias = weight, bias
        self._product = operators.linear_int8 if weight.is_int8 else operators.linear_bf16

    @property
    def weights(self) -> tuple[Tensor, Tensor, Tensor]:
        """Tiles, scales, bias; empty is none."""
        bias = torch.empty(0) if self._bias is None else self._bias
        return self._weight.tiles, self._weight.scales, bias

    def forward(self, hidden: Tensor) -> Tensor:
        weight = self._weight
        return self._product(hidden, weight.tiles, weight.scales, weight.out_features, self._bias, None)

    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        weight = self._weight
        return self._product(hidden, weight.tiles, weight.scales, weight.out_features, self._bias, residual)


class NativeEmbedding:
    """Gathers from the tiles, so that a head of the same weight needs no second copy."""

    def __init__(self, weight: PackedWeight, operators: Any, *, held: HeldWeights) -> None:
        self._weight, self._operators, self._held = weight, operators, held
        self._gather = operators.gather_int8 if weight.is_int8 else operators.gather_bf16

    def forward(self, token_ids: Tensor) -> Tensor:
        return self._gather(self._weight.tiles, self._weight.scales, token_ids, self._weight.in_features)

    def head(self) -> NativeLinear:
        self._held.add("head", f"the embedding's {self._weight.layout}")
        return NativeLinear(self._weight, None, self._operators)


class NativeRmsNorm:
    def __init__(self, operators: Any, weight: Tensor, eps: float) -> None:
        self._norm, self.weight, self.eps = operators.rms_norm, weight.float(), eps

    def forward(self, hidden: Tensor) -> Tensor:
        return self._norm(hidden, self.weight, self.eps)


class FusedMlp:
    """down(silu(gate(x)) * up(x)) in one call."""

    def __init__(self, gate_and_up: PackedWeight, down: PackedWeight, operators: Any, *, inner_size: int) -> None:
        self._mlp = operators.gated_mlp_int8 if down.is_int8 else operators.gated_mlp_bf16
        self.weights = (gate_and_up.tiles, gate_and_up.scales, down.tiles, down.scales)
        self.inner_size = inner_size

    def forward(self, hidden: Tensor) -> Tensor:
        return self._mlp(hidden, *self.weights, self.inner_size, None)

    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self._mlp(hidden, *self.weights, self.inner_size, residual)


class GatedMlp:
    """With biases or another activation."""

    def __init__(self, gate: NativeLinear, up: NativeLinear, down: NativeLinear, activation: Activation) -> None:
        self._gate, self._up, self._down = gate, up, down
        self._activation = ACTIVATION_FUNCTIONS[activation]

    def forward(self, hidden: Tensor) -> Tensor:
        return self._down.forward(self._inner(hidden))

    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self._down.forward_added(self._inner(hidden), residual)

    def _inner(self, hidden: Tensor) -> Tensor:
        return self._activation(self._gate.forward(hidden)) * self._up.forward(hidden)
