"""The portable word `quantization`: this engine's own two, and what other engines call the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enginebay.backend import SettingOutcome

MEANINGS: Mapping[str, str] = {
    "int8": "weights in int8 by output channel, activations in int8 by token; made while loading",
    "int8_weight_only": "weights in int8 by output channel, activations as they are; made while loading",
}
BY_OTHER_NAMES: Mapping[str, tuple[str, str]] = {
    "w8a8": ("int8", "the usual short name"),
    "w8a8_int8": ("int8", "SGLang's name; there the checkpoint brings the integers"),
    "w8a16": ("int8_weight_only", "the usual short name"),
    "W8A16": ("int8_weight_only", "TensorRT-LLM's name"),
    "int8_per_channel_weight_only": ("int8_weight_only", "vLLM's name"),
    "eetq": ("int8_weight_only", "TGI's name"),
}
"""What is meant here, and whose word it is."""
_OF_CHECKPOINTS = ("compressed-tensors", "gptq", "awq", "bitsandbytes", "modelopt", "auto-round", "quark", "torchao")


def quantization_outcome(name: str, value: Any) -> SettingOutcome:
    method = str(value)
    if method in MEANINGS:
        return SettingOutcome(name, value, "mapped", becomes=MEANINGS[method])
    if method in BY_OTHER_NAMES:
        meant, why = BY_OTHER_NAMES[method]
        return SettingOutcome(name, value, "approximated", becomes=f"{meant}: {MEANINGS[meant]}", why=why)
    return SettingOutcome(name, value, "unsupported", why=_why_not(method))


def engine_quantization(value: object) -> str:
    """The engine's own word for a value that `quantization_outcome` takes."""
    method = str(value)
    return method if method in MEANINGS else BY_OTHER_NAMES[method][0]


def is_known(value: object) -> bool:
    """Whether it is a value that `quantization_outcome` takes."""
    return str(value) in MEANINGS or str(value) in BY_OTHER_NAMES


def _why_not(method: str) -> str:
    known = " or ".join(MEANINGS)
    if any(method.startswith(form) for form in _OF_CHECKPOINTS):
        return f"a form of checkpoints; this engine quantises while it loads: give it the 16-bit model, and {known}"
    nearest = "int8" if "8" in method else "int8_weight_only"
    return f"use {known}; the nearest to {method} is {nearest}"
