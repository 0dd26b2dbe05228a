"""Keys and values of one layer in the blocks of the KV cache: as they come, or as 8-bit integers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from enginebay.engine.quantization import quantize_rows

SCALE_BYTES = 4
"""Of a token's key or value in one head, in int8: float32."""


class LayerCache(Protocol):
    """A slot is block * block_size + offset. What is read has the dtype that is computed in."""

    @property
    def keys(self) -> Tensor: ...
    @property
    def values(self) -> Tensor: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def block_size(self) -> int: ...
    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All that it holds, as kernels.cpp takes it."""
        ...

    def write(self, keys: Tensor, values: Tensor, slot_mapping: Tensor) -> tuple[Tensor, Tensor]:
        """keys, values: (num_tokens, num_kv_heads, head_dim). Returns them as they will be read."""
        ...

    def read_slots(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values: (num_slots, num_kv_heads, head_dim)."""
        ...

    def read_blocks(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values: (num_blocks, block_size, num_kv_heads, head_dim)."""
        ...

    def clear(self, block: int) -> None: ...


@dataclass(frozen=True, slots=True)
class PlainLayerCache:
    """keys, values: (num_blocks + 1, block_size, num_kv_heads, head_dim). Block 0 is the scratch block."""

    keys: Tensor
    values: Tensor

    @property
    def num_kv_heads(self) -> int:
        return self.keys.shape[2]

    @property
    def block_size(self) -> int:
        return self.keys.shape[1]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.keys, self.values

    def write(self, keys: Tensor, values: Tensor, slot_mapping: Tensor) -> tuple[Tensor, Tensor]:
        self.keys.flatten(0, 1).index_copy_(0, slot_mapping, keys)
        self.values.flatten(0, 1).index_copy_(0, slot_mapping, values)
        return keys, values

    def read_slots(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        return self.keys.flatten(0, 1).index_select(0, slots), self.values.flatten(0, 1).index_select(0, slots)

    def read_blocks(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        return self.keys.index_select(0, blocks), self.values.index_select(0, blocks)

    def clear(self, block: int) -> None:
        self.keys[block].zero_()
        self.values[block].zero_()


@dataclass(frozen=True, slots=True)
class Int8LayerCache:
    """Each token's key and value by a scale of its own in each head: what is written depends on nothing else.

    A block's keys, values and scales of one head lie together, as one core reads them.
    """

    keys: Tensor
    values: Tensor
    """(num_blocks + 1, num_kv_heads, block_size, head_dim) int8"""
    key_scales: Tensor
    value_scales: Tensor
    """(num_blocks + 1, num_kv_heads, block_size) float32"""
    dtype: torch.dtype
    """Of what is read."""

    @property
    def num_kv_heads(self) -> int:
        return self.keys.shape[1]

    @property
    def block_size(self) -> int:
        return self.keys.shape[2]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.keys, self.values, self.key_scales, self.value_scales

    def write(self, keys: Tensor, values: Tensor, slot_mapping: Tensor) -> tuple[Tensor, Tensor]:
        blocks, offsets = slot_mapping // self.block_size, slot_mapping % self.block_size
        quantized_keys, quantized_values = quantize_rows(keys), quantize_rows(values)
        self.keys[blocks, :, offsets], self.key_scales[blocks, :, offsets] = quantized_keys
        self.values[blocks, :, offsets], self.value_scales[blocks, :, offsets] = quantized_values
        return self._restored(*quantized_keys), self._restored(*quantized_values)

    def read_slots(self, slots: Tensor) -> tuple[Tensor, Tensor]:
        at = slots // self.block_size, slice(None), slots % self.block_size
        keys, values, key_scales, value_scales = (part[at] for part in self.tensors)
        return self._restored(keys, key_scales), self._restored(values, value_scales)

    def read_blocks(self, blocks: Tensor) -> tuple[Tensor, Tensor]:
        keys, values, key_scales, value_scales = (part.index_select(0, blocks) for part in self.tensors)
        return self._restored(keys, key_scales).transpose(1, 2), self._restored(values, value_scales).transpose(1, 2)

    def clear(self, block: int) -> None:
        for part in self.tensors:
            part[block].zero_()

    def _restored(self, integers: Tensor, scales: Tensor) -> Tensor:
        return (integers.float() * scales[..., None]).to(self.dtype)


def int8_layer_cache(
    *, num_blocks: int, num_kv_heads: int, block_size: int, head_dim: int, dtype: torch.dtype, device: torch.device
) -> Int8LayerCache:
    """dtype: of what is read. Zeroed."""
    num_values = block_size * head_dim
    num_bytes = 2 * (num_values + block_size * SCALE_BYTES)
    memory = torch.zeros((num_blocks, num_kv_heads, num_bytes), dtype=torch.int8, device=device)
    keys, values, scales = memory.split((num_values, num_values, num_bytes - 2 * num_values), dim=-1)
    key_scales, value_scales = scales.view(torch.float32).split(block_size, dim=-1)
    shape = (block_size, head_dim)
    return Int8LayerCache(keys.unflatten(-1, shape), values.unflatten(-1, shape), key_scales, value_scales, dtype)
