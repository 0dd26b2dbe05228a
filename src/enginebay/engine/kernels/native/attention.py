"""Attention on the native kernels: every row reads keys and values where they lie, nothing is gathered or masked.

A row depends on no row beside it: prompts, pieces of prompts, decoding and the verification of drafts are one
function of the tokens up to a position, to the last bit.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from enginebay.engine.attention import AttentionInput
from enginebay.engine.kv_cache import LayerCache


class NativeAttention:
    reads_paged_rows: ClassVar[bool] = True

    def __init__(self, operators: Any) -> None:
        self._rotate_and_store = operators.rotate_and_store
        self._paged_attention = operators.paged_attention

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
        num_kv_heads, head_dim = cache.keys.shape[2:]
        qkv = qkv.contiguous()
        self._rotate_and_store(qkv, *angles, cache.keys, cache.values, step.slot_mapping, num_heads, num_kv_heads)
        rows = step.paged_rows[window]
        return self._paged_attention(
            qkv[:, :num_heads],
            cache.keys,
            cache.values,
            rows.block_tables,
            rows.starts,
            rows.sequence_of,
            rows.begins,
            rows.ends,
            head_dim**-0.5,
        )
