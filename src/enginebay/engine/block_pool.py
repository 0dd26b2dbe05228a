"""The blocks of the KV cache: who holds which one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence


def _nobody_cares(block: int) -> None:
    pass


class BlockPool:
    """Hands out block ids 1..num_blocks. Block 0 is the scratch block and belongs to nobody.

    A block is free, or owned by one or more block tables (`share` lets several tables hold the same block).
    It is free again when its last owner releases it. free + owned == all, always.

    A free block whose contents are worth something (`keep`) is handed out last, the one released longest ago first;
    until then `share` has it back.
    """

    def __init__(self, num_blocks: int, *, on_overwrite: Callable[[int], None] = _nobody_cares) -> None:
        """on_overwrite: told of a kept block that is handed out to be written to."""
        self.num_blocks = num_blocks
        self.on_overwrite = on_overwrite
        self._free = list(range(num_blocks, 0, -1))  # a stack: the block used last is still in the processor's cache
        self._kept_free: dict[int, None] = {}
        """Free blocks with contents to keep, in the order of their release."""
        self._is_kept = bytearray(num_blocks + 1)
        self._num_owners = [0] * (num_blocks + 1)

    @property
    def num_free(self) -> int:
        return len(self._free) + len(self._kept_free)

    @property
    def num_owned(self) -> int:
        return self.num_blocks - self.num_free

    def num_free_of(self, blocks: Sequence[int]) -> int:
        return sum(self._num_owners[block] == 0 for block in blocks)

    def allocate(self, num_blocks: int) -> list[int]:
        """Return blocks that nobody else holds. The caller has looked at `num_free`."""
        assert 0 <= num_blocks <= self.num_free, f"{num_blocks} blocks asked for, {self.num_free} free"
        blocks = [self._free.pop() if self._free else self._oldest_kept() for _ in range(num_blocks)]
        for block in blocks:
            self._num_owners[block] = 1
        return blocks

    def keep(self, block: int) -> None:
        """The contents of an owned block may be asked for after its release."""
        assert self._num_owners[block] > 0, f"block {block} is free: nobody knows its contents"
        self._is_kept[block] = True

    def forget(self, block: int) -> None:
        """Its contents are worth nothing any more."""
        self._is_kept[block] = False
        if block in self._kept_free:
            del self._kept_free[block]
            self._free.append(block)

    def share(self, blocks: Sequence[int]) -> None:
        """One more block table holds these blocks, owned or kept; no owner may write to them now."""
        for block in blocks:
            if self._num_owners[block] == 0:
                assert block in self._kept_free, f"block {block} is free and cannot be shared"
                del self._kept_free[block]
            self._num_owners[block] += 1

    def release(self, blocks: Sequence[int]) -> None:
        """One block table gives these blocks up. The last ones are handed out last."""
        for block in reversed(blocks):
            assert self._num_owners[block] > 0, f"block {block} is released twice"
            self._num_owners[block] -= 1
            if self._num_owners[block] == 0:
                self._take_back(block)

    def check_integrity(self, block_tables: Iterable[Sequence[int]]) -> None:
        """Compare the books with the block tables that exist; for tests. Raises AssertionError."""
        held = Counter(block for table in block_tables for block in table)
        free = {*self._free, *self._kept_free}
        assert len(free) == self.num_free, "a block is free twice"
        assert all(self._is_kept[block] for block in self._kept_free), "a block is kept and is not"
        assert not any(self._is_kept[block] for block in self._free), "contents to keep may be overwritten first"
        assert not free & held.keys(), "a block is free and owned"
        assert free | held.keys() == set(range(1, self.num_blocks + 1)), "a block is neither free nor owned"
        assert all(self._num_owners[block] == held[block] for block in range(1, self.num_blocks + 1)), "owners differ"

    def _take_back(self, block: int) -> None:
        if self._is_kept[block]:
            self._kept_free[block] = None
        else:
            self._free.append(block)

    def _oldest_kept(self) -> int:
        block = next(iter(self._kept_free))
        del self._kept_free[block]
        self._is_kept[block] = False
        self.on_overwrite(block)
        return block
