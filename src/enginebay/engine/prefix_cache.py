"""Keys and values of prefixes that were computed before: found by what they were computed from, never by whom.

A full block is named by a chain of hashes, of its own tokens and of everything before them, so that one lookup for each
block finds the longest known prefix. Blocks belong to the pool; this only knows what stands in them.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from enginebay.engine.block_pool import BlockPool
from enginebay.engine.sequence import Sequence

_DIGEST_BYTES = 16
"""128 bits: no two prefixes of any traffic share a name by chance."""


@dataclass(slots=True)
class PrefixCacheCounters:
    num_queried_tokens: int = 0
    """Tokens of admitted requests that were looked for."""
    num_hit_tokens: int = 0
    """Those whose keys and values were there."""
    num_evicted_blocks: int = 0


class PrefixCache:
    def __init__(self, pool: BlockPool, *, block_size: int, length_class: Callable[[int], int] = lambda _: 0) -> None:
        """length_class: by the length of a prompt, what the keys of its tokens depend on (`RopeConfig`)."""
        self._length_class = length_class
        self.counters = PrefixCacheCounters()
        self._pool = pool
        self._block_size = block_size
        self._block_of: dict[bytes, int] = {}
        self._name_of: dict[int, bytes] = {}
        pool.on_overwrite = self._evicted

    @property
    def num_blocks(self) -> int:
        """Blocks whose contents are known, owned ones included."""
        return len(self._name_of)

    def find(self, sequence: Sequence) -> list[int]:
        """The blocks that hold the longest known prefix of a sequence's tokens.

        The last token is always computed again, even on a full hit: sampling needs its logits. So is every token whose
        log-probability was asked for.
        """
        if sequence.request.num_prompt_logprobs is not None:
            return []
        num_blocks = (sequence.num_tokens - 1) // self._block_size
        found: list[int] = []
        for name in self._names(sequence, num_blocks):
            block = self._block_of.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def count(self, sequence: Sequence, num_hit_tokens: int) -> None:
        self.counters.num_queried_tokens += sequence.num_tokens
        self.counters.num_hit_tokens += num_hit_tokens

    def learn(self, sequence: Sequence) -> None:
        """Keep the blocks that the sequence has filled. A prefix that stands in another block already stays there."""
        num_full = sequence.num_computed_tokens // self._block_size
        if num_full == sequence.num_learnt_blocks:
            return
        names = self._names(sequence, num_full)
        for index in range(sequence.num_learnt_blocks, num_full):
            block = sequence.block_table[index]
            if names[index] not in self._block_of and block not in self._name_of:
                self._block_of[names[index]] = block
                self._name_of[block] = names[index]
                self._pool.keep(block)
        sequence.num_learnt_blocks = num_full

    def distrust(self, sequence: Sequence) -> None:
        """Forget what stands in its blocks: it was computed from something broken, or into it."""
        for block in sequence.block_table:
            self._forget(block)

    def reset(self) -> None:
        for block in list(self._name_of):
            self._forget(block)

    def check_integrity(self) -> None:
        """For tests. Raises AssertionError."""
        assert {name: block for block, name in self._name_of.items()} == self._block_of, "names and blocks differ"

    def _names(self, sequence: Sequence, num_blocks: int) -> list[bytes]:
        """The first num_blocks names at least; they are kept with the sequence, whose tokens never change."""
        names = sequence.block_names
        while len(names) < num_blocks:
            start = len(names) * self._block_size
            tokens = array("q", sequence.token_ids[start : start + self._block_size])
            parent = names[-1] if names else self._root(sequence)
            names.append(blake2b(parent + b"\0" + tokens.tobytes(), digest_size=_DIGEST_BYTES).digest())
        return names[:num_blocks]

    def _root(self, sequence: Sequence) -> bytes:
        return f"{self._length_class(sequence.num_prompt_tokens)} {sequence.request.cache_salt}".encode()

    def _forget(self, block: int) -> None:
        name = self._name_of.pop(block, None)
        if name is not None:
            del self._block_of[name]
            self._pool.forget(block)

    def _evicted(self, block: int) -> None:
        self.counters.num_evicted_blocks += 1
        del self._block_of[self._name_of.pop(block)]
