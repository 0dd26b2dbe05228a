"""What is known to be in force, under the portable names; what was handed over or is a default, under names of our own.

The pipeline tells neither its scheduler's configuration nor the properties of the model that it compiled. What was
asked of it is no answer: `dtype`, `kv_cache_dtype` and what only its scheduler minds are left out, that is unknown.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

_TYPES = {
    "bfloat16": "bfloat16", "float32": "float32", "float16": "float16", "uint8_t": "int8", "int8_t": "int8",
}  # fmt: skip
"""OpenVINO's element types, under the names of the settings. 8 bits are unsigned in its KV caches."""
_SCHEDULED = ("max_num_batched_tokens", "enable_prefix_caching", "dynamic_split_fuse", "cache_size")


def effective_settings(
    openvino: Any, scheduler: Any, *, device: str, directory: Path, max_model_len: int | None
) -> dict[str, object]:
    told: dict[str, object] = {
        # Both are minded by the worker, in front of the engine.
        "max_num_seqs": scheduler.max_num_seqs,
        "max_model_len": max_model_len,
        "weight_format": weight_format(directory),
        "device": device,
        "device_name": _property(openvino, device, "FULL_DEVICE_NAME"),
        "device_default_dtype": _precision(openvino, device, "INFERENCE_PRECISION_HINT"),
        "device_default_kv_cache_dtype": _precision(openvino, device, "KV_CACHE_PRECISION"),
        **{f"scheduler_{name}": getattr(scheduler, name) for name in _SCHEDULED},
    }
    return {name: value for name, value in told.items() if value is not None}


def weight_format(directory: Path) -> str | None:
    """As the conversion wrote it beside the model; None for one of unknown origin."""
    try:
        return str(msgspec.json.decode((directory / "enginebay-conversion.json").read_bytes())["variant"])
    except (OSError, KeyError, msgspec.DecodeError):
        return None


def _precision(openvino: Any, device: str, name: str) -> str | None:
    value = _property(openvino, device, name)
    if value is None:
        return None
    return next((word for mark, word in _TYPES.items() if mark in value), value)


def _property(openvino: Any, device: str, name: str) -> str | None:
    """None where the device does not know the property."""
    try:
        return str(openvino.Core().get_property(device, name))
    except RuntimeError:
        return None
