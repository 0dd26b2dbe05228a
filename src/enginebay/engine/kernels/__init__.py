"""Faster forms of the layers, and the choice between them. The plain ones in `layers.py` are their oracle."""

from __future__ import annotations

import torch

from enginebay.engine.kernels.int8 import PlainInt8Layers
from enginebay.engine.kernels.native.build import native_operators, why_not
from enginebay.engine.kernels.native.layers import NativeLayers
from enginebay.engine.kernels.packed import PackedLayers, packing_is_available
from enginebay.engine.layers import LayerFactory, PlainLayers
from enginebay.engine.model_config import ModelConfig
from enginebay.engine.quantization import QUANTIZATIONS, Quantization
from enginebay.errors import ModelError

KERNELS = ("auto", "native", "packed", "plain")
"""auto: the fastest that this machine has."""


def choose_layers(
    kernels: str,
    quantization: str | None,
    *,
    model: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
) -> LayerFactory:
    """Raises ModelError for a name that is not known, and for native kernels that this machine cannot have."""
    if kernels not in KERNELS:
        raise ModelError(f"kernels {kernels!r} is not known; use {', '.join(KERNELS)}")
    wanted = _known(quantization)
    if kernels in ("auto", "native") and wanted != "int8_weight_only":
        native = _native(model, dtype=dtype, device=device, is_int8=wanted == "int8")
        if native is not None:
            return native
        if kernels == "native":
            raise ModelError(f"kernels native: {_why_not_native(model, dtype=dtype, device=device)}; use auto")
    if wanted is not None:
        return PlainInt8Layers(wanted)
    if kernels in ("auto", "packed") and packing_is_available(device, dtype):
        return PackedLayers()
    return PlainLayers()


def _known(quantization: str | None) -> Quantization | None:
    for known in QUANTIZATIONS:
        if quantization == known:
            return known
    if quantization is None:
        return None
    raise ModelError(f"quantization {quantization!r} is not known; use {', '.join(QUANTIZATIONS)}, or leave it out")


def _native(model: ModelConfig, *, dtype: torch.dtype, device: torch.device, is_int8: bool) -> NativeLayers | None:
    if _why_not_native(model, dtype=dtype, device=device) is not None:
        return None
    return NativeLayers(native_operators(), is_int8=is_int8)


def _why_not_native(model: ModelConfig, *, dtype: torch.dtype, device: torch.device) -> str | None:
    if device.type != "cpu" or dtype != torch.bfloat16:
        return "they compute in bfloat16 on the CPU"
    if model.head_dim % 16 or model.head_dim > 256:
        return f"heads of {model.head_dim} are not a multiple of 16 up to 256"
    reason = why_not()
    if reason is None and native_operators() is None:
        return "the system does not give this process AMX tiles"
    return reason
