"""int8 layers in plain PyTorch: the fallback for machines without the native kernels, and their oracle."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from enginebay.engine.attention import PlainAttention
from enginebay.engine.layers import ACTIVATION_FUNCTIONS, Affine, GatedMlp, ResidualLayer, RmsNorm, joined
from enginebay.engine.model_config import Activation
from enginebay.engine.quantization import Quantization, QuantizedWeight, quantize_rows


class PlainInt8Layers:
    """Norms and biases keep the model's dtype; every matrix, embedding and head included, is int8."""

    def __init__(self, quantization: Quantization) -> None:
        self.name = f"plain {quantization}"
        self.num_bytes = 0
        self._make: Callable[[Affine], Int8Linear | WeightOnlyLinear]
        self._make = Int8Linear if quantization == "int8" else WeightOnlyLinear

    def embedding(self, weight: Tensor) -> Int8Embedding:
        layer = self._make(Affine(weight))
        self.num_bytes += layer.num_bytes
        return Int8Embedding(layer, dtype=weight.dtype)

    def attention_kernel(self) -> PlainAttention:
        return PlainAttention()

    def rms_norm(self, weight: Tensor, eps: float) -> RmsNorm:
        self.num_bytes += weight.nbytes
        return RmsNorm(weight, eps)

    def linear(self, affine: Affine) -> ResidualLayer:
        layer = self._make(affine)
        self.num_bytes += layer.num_bytes
        return layer

    def gated_mlp(self, gate: Affine, up: Affine, *, down: Affine, activation: Activation) -> ResidualLayer:
        return GatedMlp(self.linear(joined(gate, up)), self.linear(down), ACTIVATION_FUNCTIONS[activation])


class Int8Linear:
    """Weights and activations: the sum over inputs is exact in int32, so only the two quantisations round."""

    def __init__(self, affine: Affine) -> None:
        self.weight: QuantizedWeight = quantize_rows(affine.weight)
        self._bias = affine.bias
        self.num_bytes = _num_bytes(self.weight, affine.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        rows = quantize_rows(hidden)
        sums = torch._int_mm(rows.values, self.weight.values.t())
        product = sums.float() * rows.scales[:, None] * self.weight.scales
        return _finished(product, self._bias, hidden.dtype)

    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.forward(hidden) + residual


class WeightOnlyLinear:
    def __init__(self, affine: Affine) -> None:
        self.weight: QuantizedWeight = quantize_rows(affine.weight)
        self._bias = affine.bias
        self._scales = self.weight.scales.to(affine.weight.dtype)
        self.num_bytes = _num_bytes(self.weight, affine.bias)

    def forward(self, hidden: Tensor) -> Tensor:
        if hidden.device.type == "cpu" and hidden.dtype == torch.bfloat16:
            product = torch._weight_int8pack_mm(hidden.contiguous(), self.weight.values, self._scales)
        else:
            product = functional.linear(hidden, self.weight.values.to(hidden.dtype)) * self._scales
        return product if self._bias is None else product + self._bias

    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        return self.forward(hidden) + residual


class Int8Embedding:
    def __init__(self, layer: Int8Linear | WeightOnlyLinear, *, dtype: torch.dtype) -> None:
        self._layer, self._dtype = layer, dtype

    def forward(self, token_ids: Tensor) -> Tensor:
        values, scales = self._layer.weight
        return (values[token_ids].float() * scales[token_ids][:, None]).to(self._dtype)

    def head(self) -> ResidualLayer:
        return self._layer


def _finished(product: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    return (product if bias is None else product + bias.float()).to(dtype)


def _num_bytes(weight: QuantizedWeight, bias: Tensor | None) -> int:
    return weight.values.nbytes + weight.scales.nbytes + (0 if bias is None else bias.nbytes)
