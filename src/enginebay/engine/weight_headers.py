"""How much memory weights will take, from the headers of their files: nothing of them is read."""

from __future__ import annotations

from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from enginebay.engine.model_config import ModelConfig
from enginebay.engine.weights import DERIVED_SUFFIXES, safetensors_files
from enginebay.errors import ModelError

_SCALE_BYTES = 4


def expected_weight_bytes(model_dir: Path, model: ModelConfig, *, dtype: torch.dtype, quantization: str | None) -> int:
    """At least: every tensor once, in the dtype or, if it is a matrix and they are quantised, as int8 with a float32
    scale for each row. Layouts beside that (a second one of the head) come on top. Raises ModelError."""
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        for path in safetensors_files(model_dir):
            with safe_open(path, framework="pt") as reader:
                for name in reader.keys():  # noqa: SIM118 (not a dict)
                    shapes[name] = tuple(reader.get_slice(name).get_shape())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{model_dir}: the weights cannot be read: {error}; fetch them again") from error
    if model.tie_word_embeddings:
        shapes.pop("lm_head.weight", None)  # a copy of the embedding: only one of them is held
    held = (shape for name, shape in shapes.items() if not name.endswith(DERIVED_SUFFIXES))
    return sum(_tensor_bytes(shape, dtype, is_int8=quantization is not None) for shape in held)


def _tensor_bytes(shape: tuple[int, ...], dtype: torch.dtype, *, is_int8: bool) -> int:
    if is_int8 and len(shape) == 2:
        return prod(shape) + shape[0] * _SCALE_BYTES
    return prod(shape) * dtype.itemsize
