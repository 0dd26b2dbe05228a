"""Writing a safetensors file of bfloat16 tensors one at a time, so that only one is ever in memory.

The library's own `serialize_file` wants all tensors at once, and its arguments differ between versions.
Format: 8 bytes of header length (little endian), the header (JSON), the tensors' bytes in header order.
Source: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from enginebay.models.bfloat16 import to_bfloat16_bits

_BYTES_PER_VALUE = 2


def write_bfloat16(
    path: Path, shapes: Mapping[str, tuple[int, ...]], tensors: Iterable[tuple[str, NDArray[np.float32]]]
) -> None:
    """`tensors` must come in the order of `shapes`, which says what the file will hold."""
    with path.open("wb") as file:
        file.write(_header(shapes))
        for (name, shape), (given_name, values) in zip(shapes.items(), tensors, strict=True):
            assert (given_name, values.shape) == (name, shape)
            file.write(to_bfloat16_bits(values).data)


def _header(shapes: Mapping[str, tuple[int, ...]]) -> bytes:
    # transformers refuses a file that does not name its framework
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * _BYTES_PER_VALUE
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded
