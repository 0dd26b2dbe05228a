"""Faster forms of the layers, and the choice between them. The plain ones in `layers.py` are their oracle."""

from __future__ import annotations

import torch

from enginebay.engine.kernels.int8 import PlainInt8Layers
from enginebay.engine.kernels.invariant import InvariantLayers, InvariantNativeLayers
from enginebay.engine.kernels.native.build import native_kernels
from enginebay.engine.kernels.native.layers import NativeLayers
from enginebay.engine.kernels.packed import PackedLayers, packing_is_available
from enginebay.engine.layers import LayerFactory, PlainLayers
from enginebay.engine.model_config import ModelConfig
from enginebay.engine.quantization import QUANTIZATIONS, Quantization
from enginebay.errors import ConfigError, ModelError

KERNELS = ("auto", "native", "packed", "plain")
"""auto: the fastest that this machine has."""

MOST_HEADS_OF_A_KEY = 16
"""Of the native attention: the queries that meet one key head stand in one tile."""


def choose_layers(
    kernels: str,
    quantization: str | None,
    *,
    model: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    batch_invariant: bool = False,
) -> LayerFactory:
    """batch_invariant: every row is computed as if it were alone, see `invariant`. ConfigError where that cannot be.

    Raises ModelError for a name that is not known, and for kernels that this machine or quantisation cannot have.

    | quantization     | auto                  | native | packed | plain |
    |------------------|-----------------------|--------|--------|-------|
    | None             | native, packed, plain | yes    | yes    | yes   |
    | int8             | native, plain         | yes    | no     | yes   |
    | int8_weight_only | plain                 | no     | no     | yes   |
    """
    if kernels not in KERNELS:
        raise ModelError(f"kernels {kernels!r} is not known; use {', '.join(KERNELS)}")
    if batch_invariant and kernels == "packed":
        raise ConfigError(
            "packed kernels choose their order of summation by the number of rows: they cannot be batch-invariant",
            path="options.batch_invariant",
            expected="kernels: auto, native or plain beside it",
        )
    wanted = _known(quantization)
    if wanted is not None and kernels == "packed":
        raise ModelError(f"kernels packed have no {wanted}; use auto")
    if wanted == "int8_weight_only" and kernels == "native":
        raise ModelError(f"kernels native have no {wanted}; use auto, or quantization int8")
    if kernels in ("auto", "native") and wanted != "int8_weight_only":
        native = _native(model, dtype=dtype, device=device, is_int8=wanted == "int8")
        if isinstance(native, NativeLayers):
            return InvariantNativeLayers(native) if batch_invariant else native
        if kernels == "native":
            raise ModelError(f"kernels native: {native}; use auto")
    if batch_invariant:
        return InvariantLayers(PlainLayers() if wanted is None else PlainInt8Layers(wanted))
    if wanted is not None:
        return PlainInt8Layers(wanted)
    if kernels != "plain" and packing_is_available(device, dtype):
        return PackedLayers()
    if kernels == "packed":
        raise ModelError("kernels packed are for bfloat16 on CPUs whose PyTorch has oneDNN; use auto")
    return PlainLayers()


def _known(quantization: str | None) -> Quantization | None:
    for known in QUANTIZATIONS:
        if quantization == known:
            return known
    if quantization is None:
        return None
    raise ModelError(f"quantization {quantization!r} is not known; use {', '.join(QUANTIZATIONS)}, or leave it out")


def _native(model: ModelConfig, *, dtype: torch.dtype, device: torch.device, is_int8: bool) -> NativeLayers | str:
    """The layers, or why there are none."""
    if device.type != "cpu" or dtype != torch.bfloat16:
        return "they compute in bfloat16 on the CPU"
    if model.head_dim % 16 or model.head_dim > 256:
        return f"heads of {model.head_dim} are not a multiple of 16 up to 256"
    if (num_together := model.num_heads // model.num_kv_heads) > MOST_HEADS_OF_A_KEY:
        return f"{num_together} heads share a key head, they compute at most {MOST_HEADS_OF_A_KEY}"
    found = native_kernels()
    return found.why_not if found.operators is None else NativeLayers(found.operators, is_int8=is_int8)
