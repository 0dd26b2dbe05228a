"""Attention on the native kernels: every row reads keys and values where they lie, nothing is gathered or masked.

A row depends on no row beside it: prompts, pieces of prompts, decoding and the verification of drafts are one
function of the tokens up to a position, to the last bit.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from enginebay.engine.attention import AttentionInput
from enginebay.engine.layer_cache import LayerCache


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
        qkv = qkv.contiguous()
        self._rotate_and_store(qkv, *angles, cache.tensors, step.slot_mapping, num_heads)
        rows = step.paged_rows[window]
        return self._paged_attention(
            qkv[:, :num_heads],
            cache.tensors,
            rows.block_tables,
            rows.starts,
            rows.sequence_of,
            rows.begins,
            rows.ends,
            qkv.shape[-1] ** -0.5,
        )
