"""Which prompt blocks were computed before. A hit saves prefill time here, not memory."""

from __future__ import annotations

from collections import OrderedDict
from functools import lru_cache


class PrefixCache:
    """Least recently used first out."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self._num_blocks, self._block_size = num_blocks, block_size
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def num_cached_tokens(self, token_ids: tuple[int, ...], salt: str) -> int:
        """Of the longest known prefix in whole blocks; never all, since the last token must be computed."""
        num_hits = 0
        for block in block_hashes(token_ids, self._block_size, salt):
            if block not in self._blocks:
                break
            num_hits += 1
        return min(num_hits * self._block_size, (len(token_ids) - 1) // self._block_size * self._block_size)

    def add(self, token_ids: tuple[int, ...], salt: str) -> None:
        for block in block_hashes(token_ids, self._block_size, salt):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._num_blocks:
            self._blocks.popitem(last=False)

    def clear(self) -> None:
        self._blocks.clear()


@lru_cache(maxsize=4096)
def block_hashes(token_ids: tuple[int, ...], block_size: int, salt: str) -> tuple[int, ...]:
    """One for each full block; each follows from all before it."""
    hashes: list[int] = []
    chained = hash(salt)
    for begin in range(0, len(token_ids) - block_size + 1, block_size):
        chained = hash((chained, token_ids[begin : begin + block_size]))
        hashes.append(chained)
    return tuple(hashes)
