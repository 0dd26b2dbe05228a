"""Layers under which a row's result depends on nothing but the row: bit for bit, whatever stands beside it.

Matrix products choose another order of summation for another number of rows, vectorised activations round the end of
a tensor differently from its middle, and a prompt's attention is summed in another order than a decode step's. Here
every row is computed as if it were alone, with the shapes that a row alone has; so prefill, chunked prefill,
recomputation and decode are one function of the tokens before and the position.

The price: each row reads all weights. A decode step for n sequences costs what n steps for one would, and a prompt of
n tokens as much as n decode steps. The native kernels compute rows alone anyway and pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from enginebay.engine.attention import AttentionInput, PagedRows
from enginebay.engine.held_weights import Part
from enginebay.engine.kernels.native.layers import NativeLayers
from enginebay.engine.kernels.native.parts import FusedMlp
from enginebay.engine.layer_cache import LayerCache
from enginebay.engine.layers import Affine, Embedding, Layer, LayerByLayer, LayerFactory, ResidualLayer
from enginebay.engine.model_config import Activation
from enginebay.engine.rope import rotate


class InvariantLayers:
    """Any other layers, given one row at a time."""

    stack = LayerByLayer

    def __init__(self, layers: LayerFactory) -> None:
        self._layers, self.held = layers, layers.held
        self.name = f"{layers.name}, row by row"

    def embedding(self, weight: Tensor) -> Embedding:
        return InvariantEmbedding(self._layers.embedding(weight))

    def attention_kernel(self) -> RowAttention:
        return RowAttention()

    def rms_norm(self, weight: Tensor, eps: float) -> Layer:
        return RowLayer(self._layers.rms_norm(weight, eps))

    def linear(self, affine: Affine, *, part: Part = "linear") -> ResidualLayer:
        return RowLayer(self._layers.linear(affine, part=part))

    def gated_mlp(self, gate: Affine, up: Affine, *, down: Affine, activation: Activation) -> ResidualLayer:
        return RowLayer(self._layers.gated_mlp(gate, up, down=down, activation=activation))


class InvariantNativeLayers:
    """The native products and norms compute each row alone already; activations of PyTorch between them do not."""

    def __init__(self, layers: NativeLayers) -> None:
        self._layers, self.held = layers, layers.held
        self.name = layers.name
        self.embedding, self.linear, self.rms_norm = layers.embedding, layers.linear, layers.rms_norm
        self.attention_kernel, self.stack = layers.attention_kernel, layers.stack

    def gated_mlp(self, gate: Affine, up: Affine, *, down: Affine, activation: Activation) -> ResidualLayer:
        layer = self._layers.gated_mlp(gate, up, down=down, activation=activation)
        return layer if isinstance(layer, FusedMlp) else RowLayer(layer)


class RowLayer:
    def __init__(self, layer: Layer) -> None:
        self._layer = layer

    def forward(self, hidden: Tensor) -> Tensor:
        return row_by_row(self._layer.forward, hidden)

    def forward_added(self, hidden: Tensor, residual: Tensor) -> Tensor:
        layer = cast("ResidualLayer", self._layer)
        return row_by_row(layer.forward_added, hidden, residual)


class InvariantEmbedding:
    """Gathering is exact, the head is a product."""

    def __init__(self, embedding: Embedding) -> None:
        self._embedding = embedding

    def forward(self, token_ids: Tensor) -> Tensor:
        return self._embedding.forward(token_ids)

    def head(self) -> ResidualLayer:
        return RowLayer(self._embedding.head())


class RowAttention:
    """Gathers the keys of each row alone."""

    reads_paged_rows: ClassVar[bool] = True

    def attend(
        self,
        qkv: Tensor,
        angles: tuple[Tensor, Tensor],
        *,
        num_heads: int,
        cache: LayerCache,
        step: AttentionInput,
        window: int | None,
    ) -> Tensor:
        num_kv_heads = cache.num_kv_heads
        queries_and_keys, values = qkv.split((num_heads + num_kv_heads, num_kv_heads), dim=1)
        rotated = row_by_row(rotate, queries_and_keys, *angles)
        queries, keys = rotated.split((num_heads, num_kv_heads), dim=1)
        cache.write(keys, values, step.slot_mapping)
        return _attended(queries, cache, step.paged_rows[window])


def row_by_row(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Each row is copied out: products may choose by the alignment of what they are given too."""
    rows = zip(*(tensor.split(1) for tensor in tensors), strict=True)
    return torch.cat([function(*(part.clone(memory_format=torch.contiguous_format) for part in row)) for row in rows])


def _attended(queries: Tensor, cache: LayerCache, rows: PagedRows) -> Tensor:
    """(num_rows, num_heads * head_dim). Keys are gathered for each row alone, no more than it sees."""
    starts, block_tables = rows.starts[rows.sequence_of].tolist(), rows.block_tables[rows.sequence_of]
    seen = [
        slice(begin - start, end - start)
        for start, begin, end in zip(starts, rows.begins.tolist(), rows.ends.tolist(), strict=True)
    ]
    return torch.cat(
        [
            _attend_alone(query[None], cache, blocks, seen=keys)
            for query, blocks, keys in zip(queries, block_tables, seen, strict=True)
        ]
    )


def _attend_alone(query: Tensor, cache: LayerCache, blocks: Tensor, *, seen: slice) -> Tensor:
    """query: (1, num_heads, head_dim); heads that share a key stand where query positions usually do."""
    needed = blocks[: -(-seen.stop // cache.block_size)]
    keys, values = (part.flatten(0, 1)[seen].transpose(0, 1)[None] for part in cache.read_blocks(needed))
    heads = query.reshape(1, cache.num_kv_heads, -1, query.shape[-1])
    return scaled_dot_product_attention(heads, keys, values).reshape(1, -1)
