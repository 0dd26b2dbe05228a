"""What the engine says it runs with, under the portable names where there is one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

_DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
_TYPES = {"bfloat16": "bfloat16", "float32": "float32", "float16": "float16", "uint8_t": "u8", "int8_t": "int8"}


def effective_settings(
    openvino: Any, scheduler: Any, keywords: Mapping[str, Any], *, directory: Path, max_model_len: int | None
) -> dict[str, object]:
    """Of the scheduler as it was set up; of the device, what its properties say with ours applied."""
    properties: Mapping[str, Any] = keywords.get("properties", {})
    told: dict[str, object] = {
        "max_num_seqs": scheduler.max_num_seqs,
        "max_num_batched_tokens": scheduler.max_num_batched_tokens,
        "enable_prefix_caching": scheduler.enable_prefix_caching,
        "chunked_prefill": scheduler.dynamic_split_fuse,
        "cache_size_gb": scheduler.cache_size,
        "device": keywords["device"],
        "weight_format": weight_format(directory),
        "dtype": _precision(openvino, keywords["device"], "INFERENCE_PRECISION_HINT", properties),
        "kv_cache_dtype": _precision(openvino, keywords["device"], "KV_CACHE_PRECISION", properties),
        "device_name": _property(openvino, keywords["device"], "FULL_DEVICE_NAME"),
        "max_model_len": max_model_len,
    }
    return {name: value for name, value in told.items() if value is not None}


def weight_format(directory: Path) -> str | None:
    """As the conversion wrote it beside the model; None for one of unknown origin."""
    try:
        return str(msgspec.json.decode((directory / "enginebay-conversion.json").read_bytes())["variant"])
    except (OSError, KeyError, msgspec.DecodeError):
        return None


def _precision(openvino: Any, device: str, name: str, given: Mapping[str, Any]) -> str | None:
    if name in given:
        return _DTYPES.get(str(given[name]), str(given[name]))
    value = _property(openvino, device, name)
    if value is None:
        return None
    spelled = next((word for mark, word in _TYPES.items() if mark in value), None)
    return spelled or value


def _property(openvino: Any, device: str, name: str) -> str | None:
    """None where the device does not know the property."""
    try:
        return str(openvino.Core().get_property(device, name))
    except RuntimeError:
        return None
