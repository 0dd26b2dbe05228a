"""Layers on the native kernels: bfloat16 in and out, weights in bfloat16 or int8, one layout of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from enginebay.engine.held_weights import HeldWeights, Part
from enginebay.engine.kernels.native.attention import NativeAttention
from enginebay.engine.kernels.native.parts import (
    COLUMNS,
    FusedMlp,
    GatedMlp,
    NativeEmbedding,
    NativeLinear,
    NativeRmsNorm,
    PackedWeight,
)
from enginebay.engine.kernels.native.stack import native_stack
from enginebay.engine.layers import Affine, LayerByLayer, LayerStack, ResidualLayer
from enginebay.engine.model_config import Activation

if TYPE_CHECKING:
    from enginebay.engine.model import DecoderLayer


class NativeLayers:
    def __init__(self, operators: Any, *, is_int8: bool) -> None:
        """operators: see `build.native_kernels`."""
        self.name = "native"
        self.held = HeldWeights()
        self._operators, self._is_int8 = operators, is_int8

    def embedding(self, weight: Tensor) -> NativeEmbedding:
        return NativeEmbedding(self._packed(weight, part="embedding"), self._operators, held=self.held)

    def attention_kernel(self) -> NativeAttention:
        return NativeAttention(self._operators)

    def rms_norm(self, weight: Tensor, eps: float) -> NativeRmsNorm:
        norm = NativeRmsNorm(self._operators, weight, eps)
        self.held.add("norm", "float32", norm.weight)
        return norm

    def linear(self, affine: Affine, *, part: Part = "linear") -> NativeLinear:
        packed = self._packed(affine.weight, part=part)
        self.held.add(part, packed.layout, affine.bias)
        return NativeLinear(packed, affine.bias, self._operators)

    def gated_mlp(self, gate: Affine, up: Affine, *, down: Affine, activation: Activation) -> ResidualLayer:
        if activation == "silu" and all(part.bias is None for part in (gate, up, down)):
            together = self._packed(_alternating(gate.weight, up.weight), part="linear")
            packed_down = self._packed(down.weight, part="linear")
            return FusedMlp(together, packed_down, self._operators, inner_size=len(gate.weight))
        return GatedMlp(self.linear(gate), self.linear(up), self.linear(down), activation)

    def stack(self, layers: Sequence[DecoderLayer]) -> LayerStack:
        return native_stack(layers, self._operators, is_int8=self._is_int8) or LayerByLayer(layers)

    def _packed(self, weight: Tensor, *, part: Part) -> PackedWeight:
        packed = PackedWeight(weight, self._operators, is_int8=self._is_int8)
        self.held.add(part, packed.layout, packed.tiles, packed.scales)
        return packed


def _alternating(gate: Tensor, up: Tensor) -> Tensor:
    """A tile of gate's rows, a tile of up's, and so on; the last ones filled up with zeros."""
    num_missing = -len(gate) % COLUMNS
    tiles = [torch.nn.functional.pad(part, (0, 0, 0, num_missing)).unflatten(0, (-1, COLUMNS)) for part in (gate, up)]
    return torch.stack(tiles, dim=1).flatten(0, 2)
