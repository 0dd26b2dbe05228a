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


DEFAULT_KV_CACHE_BYTES = 2 * 2**30


@dataclass(frozen=True, slots=True)
class MemoryShare:
    """`gpu_memory_fraction`: weights, one step and the KV cache take this share together."""

    fraction: float
    shareable_bytes: int
    """What it is a fraction of."""
    taken_bytes: int
    """By the weights and one step."""

    @property
    def left_bytes(self) -> int:
        return max(0, int(self.fraction * self.shareable_bytes) - self.taken_bytes)

    def __str__(self) -> str:
        return (
            f"gpu_memory_fraction {self.fraction:g} of {self.shareable_bytes:,} bytes, less {self.taken_bytes:,} "
            f"for the weights and one step, leaves {self.left_bytes:,} bytes"
        )


def block_bytes(model: ModelConfig, *, block_size: int, dtype: torch.dtype) -> int:
    return 2 * model.num_layers * block_size * model.num_kv_heads * model.head_dim * dtype.itemsize


def kv_cache_size(
    config: EngineConfig,
    model: ModelConfig,
    *,
    max_model_len: int,
    dtype: torch.dtype,
    share: MemoryShare | None = None,
    draft_block_bytes: int = 0,
) -> KvCacheSize:
    """One source decides, the first that is given: `num_blocks`; `kv_cache_bytes`; the share, all that it leaves;
    else 2 GiB. Under a number of bytes it is no more than max_num_seqs full contexts can use.

    draft_block_bytes: what a draft model with a cache of its own puts beside each block.
    Raises ModelError, with the arithmetic, when not even one full context fits.
    """
    num_bytes = block_bytes(model, block_size=config.block_size, dtype=dtype) + draft_block_bytes
    blocks_per_context = -(-max_model_len // config.block_size)
    if config.num_blocks is not None:
        num_blocks, source = config.num_blocks, f"num_blocks is {config.num_blocks}"
    elif config.kv_cache_bytes is None and share is not None:
        num_blocks = share.left_bytes // num_bytes - 1
        source = f"{share}, which is {max(num_blocks, 0)} blocks"
    else:
        most_bytes = DEFAULT_KV_CACHE_BYTES if config.kv_cache_bytes is None else config.kv_cache_bytes
        num_blocks = min(config.max_num_seqs * blocks_per_context, most_bytes // num_bytes - 1)
        source = f"kv_cache_bytes {most_bytes:,} allows {max(num_blocks, 0)} blocks"
    size = KvCacheSize(num_blocks, config.block_size, num_bytes)
    if num_blocks < blocks_per_context:
        raise ModelError(_too_small(size, source, blocks_per_context=blocks_per_context, max_model_len=max_model_len))
    return size


def _too_small(size: KvCacheSize, source: str, *, blocks_per_context: int, max_model_len: int) -> str:
    needed = KvCacheSize(blocks_per_context, size.block_size, size.block_bytes)
    longest = size.num_blocks * size.block_size
    advice = f"lower max_model_len to at most {longest} or allow more" if longest >= 2 else "allow more"
    return (
        f"the KV cache cannot hold one context of {max_model_len} tokens: that takes {needed}, but {source}; {advice}"
    )
