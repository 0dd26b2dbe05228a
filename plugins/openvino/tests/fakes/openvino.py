"""Of OpenVINO's Python package what the adapter uses, without any device."""

from __future__ import annotations

__version__ = "2026.4.1-fake"


class Tensor:
    def __init__(self, data) -> None:
        self.data = data


class Core:
    def get_property(self, device: str, name: str) -> str:
        told = {"INFERENCE_PRECISION_HINT": "<Type: 'bfloat16'>", "KV_CACHE_PRECISION": "<Type: 'uint8_t'>"}
        if name not in told:
            raise RuntimeError(f"Unsupported property {name}")
        return told[name]
