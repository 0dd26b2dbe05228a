"""What the weights of a model take, as they are held: by part of the model and by layout."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal

from torch import Tensor

Part = Literal["embedding", "linear", "head", "norm"]


class HeldWeights:
    """Filled in by a layer factory, at the places where the tensors stay."""

    def __init__(self) -> None:
        self._bytes: Counter[tuple[Part, str]] = Counter()

    def add(self, part: Part, layout: str, *tensors: Tensor | None) -> None:
        """Tensors that only this part holds; a head that uses the embedding's adds none, and is listed with 0 bytes."""
        self._bytes[part, layout] += sum(tensor.nbytes for tensor in tensors if tensor is not None)

    @property
    def num_bytes(self) -> int:
        return self._bytes.total()

    @property
    def bytes_by_layout(self) -> Mapping[str, int]:
        """E.g. "linear, int8 tiles": 106,291,200."""
        return {f"{part}, {layout}": num_bytes for (part, layout), num_bytes in self._bytes.items()}

    def __str__(self) -> str:
        return "; ".join(f"{what} {num_bytes:,}" for what, num_bytes in self.bytes_by_layout.items())
