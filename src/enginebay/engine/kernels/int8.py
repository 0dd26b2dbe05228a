"""int8 layers in plain PyTorch: the fallback for machines without the native kernels, and their oracle.

On CUDA they use what PyTorch has there: `_int_mm`, which takes no fewer than 17 rows and sizes in multiples of 8, and
`_weight_int8pack_mm` where the release has it. That has not been run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from enginebay.engine.attention import PlainAttention
from enginebay.engine.held_weights import HeldWeights, Part
from enginebay.engine.layers import ACTIVATION_FUNCTIONS, Affine, GatedMlp, LayerByLayer, ResidualLayer, RmsNorm, joined
from enginebay.engine.model_config import Activation
from enginebay.engine.quantization import Quantization, QuantizedWeight, quantize_rows

MOST_ROWS_OF_INTEGERS = 16
"""Up to here reading the weight is what takes the time; beyond, the same product in 16 bits is faster."""
INTEGER_PRODUCT_MULTIPLE = 16
CHUNK_ROWS = 1024
"""Of the weight, in the activations' dtype at one time: they stay in a core's own cache on their way."""
CUDA_FEWEST_ROWS, CUDA_MULTIPLE = 17, 8


class PlainInt8Layers:
    """Norms and biases keep the model's dtype; every matrix, embedding and head included, is int8."""

    name = "plain"
    stack = LayerByLayer

    def __init__(self, quantization: Quantization) -> None:
        self.held = HeldWeights()
        self._make: Callable[[Affine], Int8Linear | WeightOnlyLinear]
        self._make = Int8Linear if quantization == "int8" else WeightOnlyLinear

    def embedding(self, weight: Tensor) -> Int8Embedding:
        return Int8Embedding(self._linear(Affine(weight), part="embedding"), dtype=weight.dtype, held=self.held)

    def attention_kernel(self) -> PlainAttention:
        return PlainAttention()

    def rms_norm(self, weight: Tensor, eps: float) -> RmsNorm:
        self.held.add("norm", "plain", weight)
        return RmsNorm(weight, eps)

    def linear(self, affine: Affine, *, part: Part = "linear") -> ResidualLayer:
        return self._linear(affine, part=part)

    def gated_mlp(self, gate: Affine, up: Affine, *, down: Affine, activation: Activation) -> ResidualLayer:
        return GatedMlp(self.linear(joined(gate, up)), self.linear(down), ACTIVATION_FUNCTIONS[activation])

    def _linear(self, affine: Affine, *, part: Part) -> Int8Linear | WeightOnlyLinear:
        layer = self._make(affine)
        self.held.add(part, "int8", *layer.weight, affine.bias)
        return layer


class Int8Linear:
    """Weights and activations: the sum over inputs is exact in int32, so only the two quantisations round."""

    def __init__(self, affine: Affine) -> None:
        self.weight: QuantizedWeight = quantize_rows(affine.weight)
        self._bias = affine.bias
        self._multiply = int8_product
        if affine.weight.device.type == "cuda":
            self.weight = padded(self.weight)
            self._multiply = padded_int8_product
        self._num_out = len(affine.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        rows = quantize_rows(hidden)
        sums = self._multiply(rows.values, self.weight.values)
        product = (sums.float() * rows.scales[:, None] * self.weight.scales)[:, : self._num_out]
        return (product if self._bias is None else product + self._bias.float()).to(hidden.dtype)

    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.forward(hidden) + residual


def int8_product(rows: Tensor, weight: Tensor) -> Tensor:
    """(n, in) and (out, in) int8 -> (n, out) int32"""
    return torch.ops.aten._int_mm(rows, weight.t())


def padded_int8_product(rows: Tensor, weight: Tensor) -> Tensor:
    """The same with the sizes that CUDA takes; weight: `padded`, and so is what comes out."""
    num_rows, num_in = rows.shape
    num_padding_rows = max(CUDA_FEWEST_ROWS - num_rows, 0)
    rows = functional.pad(rows, (0, weight.shape[1] - num_in, 0, num_padding_rows))
    return torch.ops.aten._int_mm(rows, weight.t())[:num_rows]


def padded(weight: QuantizedWeight) -> QuantizedWeight:
    """Zeros up to multiples of 8 in both directions."""
    num_out, num_in = (-size % CUDA_MULTIPLE for size in weight.values.shape)
    values = functional.pad(weight.values, (0, num_in, 0, num_out))
    return QuantizedWeight(values, functional.pad(weight.scales, (0, num_out)))


class WeightOnlyLinear:
    """Few rows are multiplied with the integers; for many, the weight passes through the activations' dtype in chunks.

    So what a row gives depends, within rounding, on how many rows there are.
    """

    def __init__(self, affine: Affine) -> None:
        quantized = quantize_rows(affine.weight)
        self.weight = QuantizedWeight(quantized.values, quantized.scales.to(affine.weight.dtype))
        self._bias = affine.bias
        self._has_integer_product = has_integer_product(affine.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        if len(hidden) <= MOST_ROWS_OF_INTEGERS and self._has_integer_product:
            product = torch.ops.aten._weight_int8pack_mm(hidden.contiguous(), *self.weight)
        else:
            product = product_by_chunks(hidden, self.weight)
        return product if self._bias is None else product + self._bias

    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.forward(hidden) + residual


def product_by_chunks(hidden: Tensor, weight: QuantizedWeight) -> Tensor:
    """(n, in) and (out, in) -> (n, out) in the dtype of hidden; at no time is more than a chunk of the weight in it."""
    product = hidden.new_empty((len(hidden), len(weight.values)))
    for into, values in zip(product.split(CHUNK_ROWS, dim=1), weight.values.split(CHUNK_ROWS), strict=True):
        into.copy_(functional.linear(hidden, values.to(hidden.dtype)))
    return product.mul_(weight.scales)


def has_integer_product(weight: Tensor) -> bool:
    """CPUs have had it for long, CUDA since recently; with other sizes the one of CPUs reads beyond its rows."""
    kind = weight.device.type.upper()
    is_known = torch._C._dispatch_has_kernel_for_dispatch_key("aten::_weight_int8pack_mm", kind)
    return is_known and weight.shape[1] % INTEGER_PRODUCT_MULTIPLE == 0


class Int8Embedding:
    def __init__(self, layer: Int8Linear | WeightOnlyLinear, *, dtype: torch.dtype, held: HeldWeights) -> None:
        self._layer, self._dtype, self._held = layer, dtype, held

    def forward(self, token_ids: Tensor) -> Tensor:
        values, scales = self._layer.weight
        return (values[token_ids].float() * scales[token_ids][:, None]).to(self._dtype)

    def head(self) -> ResidualLayer:
        self._held.add("head", "the embedding's int8")
        return self._layer
