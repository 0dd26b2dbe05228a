"""All layers of a model in one call of the native kernels: Python between them took 7 % of a step with one user."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from enginebay.engine.attention import AttentionInput
from enginebay.engine.kernels.native.parts import FusedMlp, NativeLinear, NativeRmsNorm
from enginebay.engine.layer_cache import LayerCache

if TYPE_CHECKING:
    from enginebay.engine.model import DecoderLayer


class _Shape(NamedTuple):
    """What all layers of a stack have in common."""

    num_heads: int
    inner_size: int
    window: int | None
    eps: tuple[float, float]
    """Of the norms before attention and before the MLP."""


class NativeStack:
    def __init__(self, operators: Any, shape: _Shape, weights: Sequence[Sequence[Tensor]], *, is_int8: bool) -> None:
        """weights: of each layer, in the order that kernels.cpp gives."""
        self._run = operators.decoder_layers_int8 if is_int8 else operators.decoder_layers_bf16
        self._shape, self._weights = shape, list(chain.from_iterable(weights))
        self.num_layers = len(weights)

    def forward(
        self, hidden: Tensor, angles: tuple[Tensor, Tensor], *, caches: Sequence[LayerCache], step: AttentionInput
    ) -> Tensor:
        shape, rows = self._shape, step.paged_rows[self._shape.window]
        return self._run(
            hidden,
            self._weights,
            [tensor for cache in caches for tensor in cache.tensors],
            *angles,
            step.slot_mapping,
            [rows.block_tables, rows.starts, rows.sequence_of, rows.begins, rows.ends],
            shape.num_heads,
            shape.inner_size,
            shape.eps,
        )


def native_stack(layers: Sequence[DecoderLayer], operators: Any, *, is_int8: bool) -> NativeStack | None:
    """None where a layer has a part that the one call does not know, or another shape or window than the first."""
    known = [found for layer in layers if (found := _known(layer)) is not None]
    if len(known) != len(layers) or len({shape for shape, _ in known}) != 1:
        return None
    return NativeStack(operators, known[0][0], [weights for _, weights in known], is_int8=is_int8)


def _known(layer: DecoderLayer) -> tuple[_Shape, list[Tensor]] | None:
    attention, mlp = layer.attention, layer.mlp
    first, second, qkv, output = layer.attention_norm, layer.mlp_norm, attention.qkv, attention.output
    if attention.query_norm is not None or not isinstance(mlp, FusedMlp):
        return None
    if not (isinstance(first, NativeRmsNorm) and isinstance(second, NativeRmsNorm)):
        return None
    if not (isinstance(qkv, NativeLinear) and isinstance(output, NativeLinear)):
        return None
    shape = _Shape(attention.num_heads, mlp.inner_size, attention.window, (first.eps, second.eps))
    return shape, [first.weight, *qkv.weights, *output.weights, second.weight, *mlp.weights]
