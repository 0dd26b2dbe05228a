"""The paged key/value cache: its tensors, its size, and the arithmetic that is shown when it does not fit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from enginebay.engine.layer_cache import SCALE_BYTES, LayerCache, PlainLayerCache, int8_layer_cache
from enginebay.engine.model_config import ModelConfig
from enginebay.engine.settings import EngineConfig
from enginebay.errors import ModelError


@dataclass(frozen=True, slots=True)
class KvCacheSize:
    num_blocks: int
    """Usable blocks: the scratch block is not counted."""
    block_size: int
    block_bytes: int
    """Keys and values of all layers for one block, those of a draft model with a cache of its own included; in int8
    with their scales."""
    is_int8: bool = False

    @property
    def num_bytes(self) -> int:
        return (self.num_blocks + 1) * self.block_bytes

    def __str__(self) -> str:
        return (
            f"{self.num_blocks} blocks of {self.block_size} tokens{' in int8' if self.is_int8 else ''} and one of "
            f"scratch x {self.block_bytes:,} bytes = {self.num_bytes:,} bytes"
        )


def allocate_kv_cache(
    model: ModelConfig, size: KvCacheSize, *, dtype: torch.dtype, device: torch.device
) -> list[LayerCache]:
    """One LayerCache for each layer; dtype: that is computed in. Zeroed: what padding reads must be finite."""
    num_blocks = size.num_blocks + 1
    if size.is_int8:
        return [
            int8_layer_cache(
                num_blocks=num_blocks, num_kv_heads=model.num_kv_heads, block_size=size.block_size,
                head_dim=model.head_dim, dtype=dtype, device=device,
            )
            for _ in range(model.num_layers)
        ]  # fmt: skip
    shape = (num_blocks, size.block_size, model.num_kv_heads, model.head_dim)
    return [
        PlainLayerCache(torch.zeros(shape, dtype=dtype, device=device), torch.zeros(shape, dtype=dtype, device=device))
        for _ in range(model.num_layers)
    ]


DEFAULT_KV_CACHE_BYTES = 2 * 2**30
KV_CACHE_DTYPES = ("auto", "int8")


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


def is_int8_kv_cache(config: EngineConfig) -> bool:
    """Raises ModelError."""
    if config.kv_cache_dtype not in KV_CACHE_DTYPES:
        raise ModelError(
            f"kv_cache_dtype {config.kv_cache_dtype!r} is not supported; "
            "use auto, which is the dtype that is computed in, or int8"
        )
    return config.kv_cache_dtype == "int8"


def block_bytes(model: ModelConfig, config: EngineConfig, *, dtype: torch.dtype) -> int:
    """model: whose blocks these are, the draft model's or the model's own; dtype: that is computed in."""
    of_a_token = model.head_dim * dtype.itemsize
    if is_int8_kv_cache(config):
        of_a_token = model.head_dim + SCALE_BYTES
    return 2 * model.num_layers * config.block_size * model.num_kv_heads * of_a_token


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
    num_bytes = block_bytes(model, config, dtype=dtype) + draft_block_bytes
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
    size = KvCacheSize(num_blocks, config.block_size, num_bytes, is_int8=is_int8_kv_cache(config))
    if num_blocks < blocks_per_context:
        raise ModelError(_too_small(size, source, blocks_per_context=blocks_per_context, max_model_len=max_model_len))
    return size


def _too_small(size: KvCacheSize, source: str, *, blocks_per_context: int, max_model_len: int) -> str:
    needed = replace(size, num_blocks=blocks_per_context)
    longest = size.num_blocks * size.block_size
    advice = f"lower max_model_len to at most {longest} or allow more" if longest >= 2 else "allow more"
    return (
        f"the KV cache cannot hold one context of {max_model_len} tokens: that takes {needed}, but {source}; {advice}"
    )
