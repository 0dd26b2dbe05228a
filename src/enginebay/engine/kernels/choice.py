"""Which form of the layers, and why: decided before any of them is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch

from enginebay.engine.kernels.packed import packing_is_available
from enginebay.engine.model_config import ModelConfig
from enginebay.engine.quantization import QUANTIZATIONS, Quantization
from enginebay.errors import ConfigError, ModelError

KERNELS = ("auto", "native", "packed", "plain")
"""auto: the fastest that this machine has."""

MOST_HEADS_OF_A_KEY = 16
"""Of the native attention: the queries that meet one key head stand in one tile."""


class Choice(NamedTuple):
    kernels: Literal["native", "packed", "plain"]
    why: str


def choose_kernels(
    kernels: str,
    quantization: str | None,
    *,
    model: ModelConfig | None,
    dtype: torch.dtype,
    device: torch.device,
    why_not_native: Callable[[], str | None],
    batch_invariant: bool = False,
) -> Choice:
    """Raises ModelError for a name that is not known, and for kernels that this machine or quantisation cannot have;
    ConfigError for packed kernels that should be batch-invariant.

    model: None is one whose shape suits all of them. why_not_native: what this machine lacks for native ones, asked
    only where nothing else is in their way.

    | quantization     | auto                  | native | packed | plain |
    |------------------|-----------------------|--------|--------|-------|
    | None             | native, packed, plain | yes    | yes    | yes   |
    | int8             | native, plain         | yes    | no     | yes   |
    | int8_weight_only | plain                 | no     | no     | yes   |

    What is batch-invariant is never packed.
    """
    wanted = known_quantization(quantization)
    _refuse_what_cannot_be(kernels, wanted, batch_invariant=batch_invariant)
    if kernels == "plain":
        return Choice("plain", "asked for")
    no_native = "they have no int8_weight_only"
    if wanted != "int8_weight_only" and kernels != "packed":
        no_native = _why_no_native_layers(model, dtype=dtype, device=device) or why_not_native()
        if no_native is None:
            return Choice("native", "asked for" if kernels == "native" else "the fastest, and this CPU has AMX")
        if kernels == "native":
            raise ModelError(f"kernels native: {no_native}; use auto")
    no_packed = _why_no_packed_layers(wanted, dtype=dtype, device=device, batch_invariant=batch_invariant)
    if no_packed is None:
        return Choice("packed", "asked for" if kernels == "packed" else f"not native: {no_native}")
    if kernels == "packed":
        raise ModelError("kernels packed are for bfloat16 on CPUs whose PyTorch has oneDNN; use auto")
    return Choice("plain", f"not native: {no_native}; not packed: {no_packed}")


def known_quantization(quantization: str | None) -> Quantization | None:
    """Raises ModelError."""
    for known in QUANTIZATIONS:
        if quantization == known:
            return known
    if quantization is None:
        return None
    raise ModelError(f"quantization {quantization!r} is not known; use {', '.join(QUANTIZATIONS)}, or leave it out")


def _refuse_what_cannot_be(kernels: str, wanted: Quantization | None, *, batch_invariant: bool) -> None:
    if kernels not in KERNELS:
        raise ModelError(f"kernels {kernels!r} is not known; use {', '.join(KERNELS)}")
    if batch_invariant and kernels == "packed":
        raise ConfigError(
            "packed kernels choose their order of summation by the number of rows: they cannot be batch-invariant",
            path="options.batch_invariant",
            expected="kernels: auto, native or plain beside it",
        )
    if wanted is not None and kernels == "packed":
        raise ModelError(f"kernels packed have no {wanted}; use auto")
    if wanted == "int8_weight_only" and kernels == "native":
        raise ModelError(f"kernels native have no {wanted}; use auto, or quantization int8")


def _why_no_native_layers(model: ModelConfig | None, *, dtype: torch.dtype, device: torch.device) -> str | None:
    if device.type != "cpu" or dtype != torch.bfloat16:
        return "they compute in bfloat16 on the CPU"
    if model is None:
        return None
    if model.head_dim % 16 or model.head_dim > 256:
        return f"heads of {model.head_dim} are not a multiple of 16 up to 256"
    if (num_together := model.num_heads // model.num_kv_heads) > MOST_HEADS_OF_A_KEY:
        return f"{num_together} heads share a key head, they compute at most {MOST_HEADS_OF_A_KEY}"
    return None


def _why_no_packed_layers(
    wanted: Quantization | None, *, dtype: torch.dtype, device: torch.device, batch_invariant: bool
) -> str | None:
    if wanted is not None:
        return f"they have no {wanted}"
    if batch_invariant:
        return "they are not batch-invariant"
    return None if packing_is_available(device, dtype) else "they are for bfloat16 on CPUs whose PyTorch has oneDNN"
