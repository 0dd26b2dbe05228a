"""Attention on the native kernels: decode rows read keys and values where they lie, nothing is gathered or masked."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from enginebay.engine.attention import AttentionInput, DecodeGroup, prefill
from enginebay.engine.kv_cache import LayerCache


class NativeAttention:
    def __init__(self, operators: Any) -> None:
        self._rotate_and_store = operators.rotate_and_store
        self._paged_decode, self._paged_attention = operators.paged_decode, operators.paged_attention

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
        num_kv_heads = cache.keys.shape[2]
        qkv = qkv.contiguous()
        self._rotate_and_store(qkv, *angles, cache.keys, cache.values, step.slot_mapping, num_heads, num_kv_heads)
        queries, keys, values = qkv.split((num_heads, num_kv_heads, num_kv_heads), dim=1)
        if (rows := step.paged_rows.get(window)) is not None:
            return self._paged_attention(
                queries,
                cache.keys,
                cache.values,
                rows.block_tables,
                rows.starts,
                rows.sequence_of,
                rows.begins,
                rows.ends,
                queries.shape[2] ** -0.5,
            )
        parts = [self._decode(queries[group.rows], cache, group) for group in step.decode_groups[window]]
        parts += [prefill(queries, keys, values, cache, chunk) for chunk in step.prefill_chunks[window]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _decode(self, queries: Tensor, cache: LayerCache, group: DecodeGroup) -> Tensor:
        scale = queries.shape[2] ** -0.5
        return self._paged_decode(
            queries, cache.keys, cache.values, group.block_table, group.starts, group.begins, group.ends, scale
        )
