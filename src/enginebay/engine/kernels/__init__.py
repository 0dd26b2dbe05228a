"""Faster forms of the layers, made where they were chosen. The plain ones in `layers.py` are their oracle."""

from __future__ import annotations

import torch

from enginebay.engine.kernels.choice import Choice, choose_kernels, known_quantization
from enginebay.engine.kernels.int8 import PlainInt8Layers
from enginebay.engine.kernels.invariant import InvariantLayers, InvariantNativeLayers
from enginebay.engine.kernels.machine import what_this_machine_lacks, why_no_compiler
from enginebay.engine.kernels.native.build import is_compiled, native_kernels
from enginebay.engine.kernels.native.layers import NativeLayers
from enginebay.engine.kernels.packed import PackedLayers
from enginebay.engine.layers import LayerFactory, PlainLayers
from enginebay.engine.model_config import ModelConfig


def choose_layers(
    kernels: str,
    quantization: str | None,
    *,
    model: ModelConfig,
    dtype: torch.dtype,
    device: torch.device,
    batch_invariant: bool = False,
) -> LayerFactory:
    """As `choose_kernels` says, which also raises; native kernels are compiled if they have to be.

    batch_invariant: every row is computed as if it were alone, see `invariant`.
    """
    chosen = choose_kernels(
        kernels, quantization, model=model, dtype=dtype, device=device, batch_invariant=batch_invariant,
        why_not_native=lambda: native_kernels().why_not or None,
    ).kernels  # fmt: skip
    wanted = known_quantization(quantization)
    if chosen == "native":
        native = NativeLayers(native_kernels().operators, is_int8=wanted == "int8")
        return InvariantNativeLayers(native) if batch_invariant else native
    if chosen == "packed":
        return PackedLayers()
    plain = PlainLayers() if wanted is None else PlainInt8Layers(wanted)
    return InvariantLayers(plain) if batch_invariant else plain


def expected_kernels(
    kernels: str,
    quantization: str | None,
    *,
    model: ModelConfig | None,
    dtype: torch.dtype,
    device: torch.device,
    batch_invariant: bool = False,
) -> Choice:
    """What `choose_layers` will make here if no compiler fails; nothing is compiled to know it. Raises as it does."""
    chosen = choose_kernels(
        kernels, quantization, model=model, dtype=dtype, device=device, batch_invariant=batch_invariant,
        why_not_native=_what_native_kernels_lack,
    )  # fmt: skip
    if chosen.kernels == "native" and not is_compiled():
        return chosen._replace(why=f"{chosen.why}; compiled at the first start, which takes about half a minute")
    return chosen


def _what_native_kernels_lack() -> str | None:
    if (missing := what_this_machine_lacks()) is not None:
        return missing
    return None if is_compiled() else why_no_compiler()
