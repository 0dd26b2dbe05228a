"""The paged key/value cache: its tensors, its size, and the arithmetic that is shown when it does not fit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from enginebay.engine.model_config import ModelConfig
from enginebay.engine.settings import EngineConfig
from enginebay.errors import ModelError


@dataclass(frozen=True, slots=True)
class LayerCache:
    """keys, values: (num_blocks + 1, block_size, num_kv_heads, head_dim). Block 0 is the scratch block."""

    keys: Tensor
    values: Tensor

    def write(self, keys: Tensor, values: Tensor, slot_mapping: Tensor) -> None:
        """keys, values: (num_tokens, num_kv_heads, head_dim); a slot is block * block_size + offset."""
        self.keys.flatten(0, 1).index_copy_(0, slot_mapping, keys)
        self.values.flatten(0, 1).index_copy_(0, slot_mapping, values)

    def clear(self, block: int) -> None:
        self.keys[block].zero_()
        self.values[block].zero_()


@dataclass(frozen=True, slots=True)
class KvCacheSize:
    num_blocks: int
    """Usable blocks: the scratch block is not counted."""
    block_size: int
    block_bytes: int
    """Keys and values of all layers for one block, those of a draft model with a cache of its own included."""

    @property
    def num_bytes(self) -> int:
        return (self.num_blocks + 1) * self.block_bytes

    def __str__(self) -> str:
        return (
            f"{self.num_blocks} blocks of {self.block_size} tokens and one of scratch x {self.block_bytes:,} bytes "
            f"= {self.num_bytes:,} bytes"
        )


def allocate_kv_cache(
    model: ModelConfig, size: KvCacheSize, *, dtype: torch.dtype, device: torch.device
) -> list[LayerCache]:
    """One LayerCache for each layer. Zeroed: what padding reads must be finite."""
    shape = (size.num_blocks + 1, size.block_size, model.num_kv_heads, model.head_dim)
    return [
        LayerCache(torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))
        for _ in range(model.num_layers)
    ]


def kv_cache_size(
    config: EngineConfig,
    model: ModelConfig,
    *,
    max_model_len: int,
    dtype: torch.dtype,
    available_bytes: int,
    draft_block_bytes: int = 0,
) -> KvCacheSize:
    """`num_blocks` as set, else enough for max_num_seqs full contexts, within kv_cache_bytes.

    draft_block_bytes: what a draft model with a cache of its own puts beside each block.
    Raises ModelError, with the arithmetic, when one full context or the available memory does not suffice.
    """
    block_bytes = 2 * model.num_layers * config.block_size * model.num_kv_heads * model.head_dim * dtype.itemsize
    block_bytes += draft_block_bytes
    blocks_per_context = -(-max_model_len // config.block_size)
    within_bytes = config.kv_cache_bytes // block_bytes - 1
    num_blocks = config.num_blocks
    if num_blocks is None:
        num_blocks = min(config.max_num_seqs * blocks_per_context, within_bytes)
    size = KvCacheSize(num_blocks, config.block_size, block_bytes)
    if num_blocks < blocks_per_context:
        raise ModelError(_too_small(config, size, blocks_per_context=blocks_per_context, max_model_len=max_model_len))
    if size.num_bytes > available_bytes:
        raise ModelError(
            f"the KV cache does not fit into memory: {size}, but only {available_bytes:,} bytes are available "
            "beside the weights; lower num_blocks, kv_cache_bytes, max_num_seqs or max_model_len"
        )
    return size


def _too_small(config: EngineConfig, size: KvCacheSize, *, blocks_per_context: int, max_model_len: int) -> str:
    needed = KvCacheSize(blocks_per_context, size.block_size, size.block_bytes)
    limit = f"num_blocks is {size.num_blocks}"
    if config.num_blocks is None:
        limit = f"kv_cache_bytes {config.kv_cache_bytes:,} allows {max(size.num_blocks, 0)} blocks"
    longest = size.num_blocks * size.block_size
    advice = f"lower max_model_len to at most {longest} or allow more" if longest >= 2 else "allow more"
    return f"the KV cache cannot hold one context of {max_model_len} tokens: that takes {needed}, but {limit}; {advice}"
