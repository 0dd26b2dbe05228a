"""The blocks of the KV cache: who holds which one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence


class BlockPool:
    """Hands out block ids 1..num_blocks. Block 0 is the scratch block and belongs to nobody.

    A block is free, or owned by one or more block tables (`share` lets several tables hold the same block).
    It is free again when its last owner releases it. free + owned == all, always.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks, 0, -1))  # a stack: the block used last is still in the processor's cache
        self._num_owners = [0] * (num_blocks + 1)

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_owned(self) -> int:
        return self.num_blocks - len(self._free)

    def allocate(self, num_blocks: int) -> list[int]:
        """Return blocks that nobody else holds. The caller has looked at `num_free`."""
        assert 0 <= num_blocks <= len(self._free), f"{num_blocks} blocks asked for, {len(self._free)} free"
        blocks = [self._free.pop() for _ in range(num_blocks)]
        for block in blocks:
            self._num_owners[block] = 1
        return blocks

    def share(self, blocks: Sequence[int]) -> None:
        """One more block table holds these blocks, which have an owner already; no owner may write to them now."""
        for block in blocks:
            assert self._num_owners[block] > 0, f"block {block} is free and cannot be shared"
            self._num_owners[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One block table gives these blocks up. The last ones are handed out last."""
        for block in reversed(blocks):
            assert self._num_owners[block] > 0, f"block {block} is released twice"
            self._num_owners[block] -= 1
            if self._num_owners[block] == 0:
                self._free.append(block)

    def check_integrity(self, block_tables: Iterable[Sequence[int]]) -> None:
        """Compare the books with the block tables that exist; for tests. Raises AssertionError."""
        held = Counter(block for table in block_tables for block in table)
        free = set(self._free)
        assert len(free) == len(self._free), "a block is free twice"
        assert not free & held.keys(), "a block is free and owned"
        assert free | held.keys() == set(range(1, self.num_blocks + 1)), "a block is neither free nor owned"
        assert all(self._num_owners[block] == held[block] for block in range(1, self.num_blocks + 1)), "owners differ"
