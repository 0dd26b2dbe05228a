"""Attention over paged keys and values in plain PyTorch: decode rows and prompt chunks in one step."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from enginebay.engine.layer_cache import LayerCache
from enginebay.engine.rope import rotate


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows of one token each, of similar context length: gathered together, padded to the longest."""

    rows: slice
    block_table: Tensor
    """(num_rows, max_blocks): the blocks that the row sees, filled up with any of its own."""
    mask: Tensor
    """(num_rows, 1, 1, max_blocks * block_size): 0 or -inf, added to the scores."""


@dataclass(frozen=True, slots=True)
class PrefillChunk:
    """Consecutive tokens of one sequence."""

    rows: slice
    context_slots: Tensor | None
    """(num_context,): slots of all keys it sees, its own included; None: its own are all there are."""
    mask: Tensor | None
    """(num_rows, num_context): 0 or -inf; None is causal."""


@dataclass(frozen=True, slots=True)
class PagedRows:
    """All rows of a step, those of prompts and of decode steps alike: for kernels that compute each as if alone."""

    block_tables: Tensor
    """(num_sequences, max_blocks): the blocks of each from position starts[sequence] on."""
    starts: Tensor
    sequence_of: Tensor
    """(num_rows,): rows of one sequence stand together, in order of position."""
    begins: Tensor
    ends: Tensor
    """(num_rows,): the row sees positions [begins, ends)."""


@dataclass(frozen=True, slots=True)
class AttentionInput:
    """What attention needs to know of a step, by the window of the layer (None: no window), in the form that the kernel
    reads: decode groups and prefill chunks, in this order of rows, or `paged_rows`.
    """

    slot_mapping: Tensor
    """(num_rows,): where each row's key and value go."""
    decode_groups: dict[int | None, list[DecodeGroup]] = field(default_factory=dict)
    prefill_chunks: dict[int | None, list[PrefillChunk]] = field(default_factory=dict)
    paged_rows: dict[int | None, PagedRows] = field(default_factory=dict)


class AttentionKernel(Protocol):
    reads_paged_rows: ClassVar[bool]
    """What it finds in `AttentionInput`."""

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
        """qkv: (num_rows, num_heads + 2 * num_kv_heads, head_dim), which may be overwritten; its queries and keys are
        not turned by their angles yet. Writes keys and values into the cache: (num_rows, num_heads * head_dim).
        """
        ...


class PlainAttention:
    reads_paged_rows: ClassVar[bool] = False

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
        queries, keys = rotate(queries_and_keys, *angles).split((num_heads, num_kv_heads), dim=1)
        return paged_attention(queries, keys, values, cache=cache, step=step, window=window)


def paged_attention(
    queries: Tensor, keys: Tensor, values: Tensor, *, cache: LayerCache, step: AttentionInput, window: int | None
) -> Tensor:
    """queries: (num_rows, num_heads, head_dim); keys, values: (num_rows, num_kv_heads, head_dim).

    Writes the keys and values into the cache, then attends: (num_rows, num_heads * head_dim).
    """
    keys, values = cache.write(keys, values, step.slot_mapping)
    decoded = [_decode(queries[group.rows], cache, group) for group in step.decode_groups[window]]
    prefilled = [prefill(queries, keys, values, cache, chunk) for chunk in step.prefill_chunks[window]]
    parts = [*decoded, *prefilled]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _decode(queries: Tensor, cache: LayerCache, group: DecodeGroup) -> Tensor:
    """The query heads that share a key head stand where the query positions usually do: nothing is repeated."""
    num_rows, num_heads, head_dim = queries.shape
    keys, values = (_by_row(part, num_rows) for part in cache.read_blocks(group.block_table.flatten()))
    queries = queries.reshape(num_rows, keys.shape[1], num_heads // keys.shape[1], head_dim)
    attended = scaled_dot_product_attention(queries, keys, values, attn_mask=group.mask)
    return attended.reshape(num_rows, num_heads * head_dim)


def _by_row(blocks: Tensor, num_rows: int) -> Tensor:
    """(num_rows, num_kv_heads, max_blocks * block_size, head_dim)"""
    _, _, num_kv_heads, head_dim = blocks.shape
    return blocks.reshape(num_rows, -1, num_kv_heads, head_dim).transpose(1, 2)


def prefill(queries: Tensor, keys: Tensor, values: Tensor, cache: LayerCache, chunk: PrefillChunk) -> Tensor:
    queries = queries[chunk.rows]
    if chunk.context_slots is None:
        keys, values = keys[chunk.rows], values[chunk.rows]
    else:
        keys, values = cache.read_slots(chunk.context_slots)
    attended = scaled_dot_product_attention(
        queries.transpose(0, 1)[None],
        keys.transpose(0, 1)[None],
        values.transpose(0, 1)[None],
        attn_mask=chunk.mask,
        is_causal=chunk.mask is None,
        enable_gqa=queries.shape[1] != keys.shape[1],
    )
    return attended[0].transpose(0, 1).flatten(1)
