"""Weights as 8-bit integers: one scale for each output channel, symmetric, nearest."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Quantization = Literal["int8", "int8_weight_only"]
QUANTIZATIONS: tuple[Quantization, ...] = ("int8", "int8_weight_only")
"""int8: weights and activations, these by a scale of each token, found as it comes. int8_weight_only: weights alone."""
LARGEST = 127


class QuantizedWeight(NamedTuple):
    values: Tensor
    """(out_features, in_features) int8"""
    scales: Tensor
    """(out_features,) float32: weight = scale * value"""


def quantize_rows(rows: Tensor) -> QuantizedWeight:
    """Each row by its largest value. A row of zeros has the scale 0; one that is not finite has no finite scale."""
    exact = rows.float()
    largest = exact.abs().amax(dim=-1)
    # PyTorch makes a number over a tensor a multiplication by the reciprocal, which rounds once more than kernels.cpp.
    factors = torch.full_like(largest, LARGEST) / largest.where(largest > 0, torch.inf)
    values = (exact * factors[..., None]).round().nan_to_num(0.0).clamp(-LARGEST, LARGEST)
    return QuantizedWeight(values.to(torch.int8), largest / LARGEST)
