"""Typed reading of a GGUF file: metadata by key, tensors expanded to float32. Needs enginebay[models]."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray

from enginebay.errors import UnsupportedModel

T = TypeVar("T")
D = TypeVar("D", int, None)


@dataclass(frozen=True, slots=True)
class GgufTensor:
    name: str
    values: NDArray[np.float32]
    """Row-major, output features first, as PyTorch has it."""


class GgufFile:
    """An open, memory-mapped GGUF file. A key that is absent or of another type raises UnsupportedModel."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._reader = GGUFReader(path)
        except (ValueError, IndexError, OSError) as error:
            raise UnsupportedModel(f"{path} is not a readable GGUF file: {error}") from error

    @property
    def num_tensors(self) -> int:
        return len(self._reader.tensors)

    def text(self, key: str) -> str:
        return self._typed(key, str)

    def integer(self, key: str) -> int:
        return self._typed(key, int)

    def number(self, key: str) -> float:
        """A float32, given as the shortest decimal that rounds to it: 9.9999997e-06 is read as 1e-05."""
        return float(str(np.float32(self._typed(key, float))))

    def strings(self, key: str) -> list[str]:
        return self._typed(key, list)

    def integers(self, key: str) -> list[int]:
        return self._typed(key, list)

    def text_or(self, key: str, default: str | None) -> str | None:
        return self.text(key) if key in self._reader.fields else default

    def integer_or(self, key: str, default: D) -> int | D:
        return self.integer(key) if key in self._reader.fields else default

    def flag_or(self, key: str, default: bool) -> bool:
        return self._typed(key, bool) if key in self._reader.fields else default

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor, output features first. GGUF itself counts dimensions from the innermost."""
        return {tensor.name: tuple(int(size) for size in reversed(tensor.shape)) for tensor in self._reader.tensors}

    def tensors(self) -> Iterator[GgufTensor]:
        """Every tensor, expanded one at a time."""
        shapes = self.shapes()
        for tensor in self._reader.tensors:
            try:
                values = dequantize(tensor.data, tensor.tensor_type)
            except NotImplementedError as error:
                kind = tensor.tensor_type.name
                raise UnsupportedModel(f"{self.path}: {tensor.name} has the unknown quantisation {kind}") from error
            yield GgufTensor(tensor.name, np.asarray(values, dtype=np.float32).reshape(shapes[tensor.name]))

    def _typed(self, key: str, wanted: type[T]) -> T:
        field = self._reader.get_field(key)
        value: object = None if field is None else field.contents()
        if not isinstance(value, wanted):
            found = "is missing" if value is None else f"is a {type(value).__name__}, expected {wanted.__name__}"
            raise UnsupportedModel(f"{self.path}: the metadata key {key!r} {found}")
        return value
