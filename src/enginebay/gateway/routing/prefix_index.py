"""Which replica computed which block last, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence


class PrefixIndex:
    """Two generations: what was used since the last change of them, and what was used in the one before.

    When the younger is half of what may be remembered, the older is forgotten as a whole and the younger takes its
    place. What was used within that half is always known. One ordered map that forgets entry by entry holds twice the
    memory for it, and comes back to its allocator with larger tables for as long as it is used.
    """

    __slots__ = ("_max_young", "_old", "_young")

    def __init__(self, max_blocks: int) -> None:
        self._max_young = (max_blocks + 1) // 2
        self._young: dict[int, str] = {}
        self._old: dict[int, str] = {}

    @property
    def num_blocks(self) -> int:
        """At most max_blocks: the younger generation is never full between two calls."""
        return len(self._young) + len(self._old)

    def replica_of(self, block: int) -> str | None:
        return self._young.get(block) or self._old.get(block)

    def remember(self, blocks: Sequence[int], replica: str) -> None:
        """blocks: those of ever longer beginnings. The shortest, which most prompts share, are forgotten last."""
        for block in reversed(blocks):
            self._young[block] = replica
            if len(self._young) >= self._max_young:
                self._old, self._young = self._young, {}
