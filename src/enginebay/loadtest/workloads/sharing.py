"""How much of each prompt was sent before: the most that a prefix cache can give."""

from __future__ import annotations

from bisect import bisect_left

import numpy as np


class SentPrompts:
    """All prompts of one start, kept in order, so that the nearest relative of a new one is its neighbour."""

    def __init__(self) -> None:
        self._sorted: list[bytes] = []

    def add(self, token_ids: tuple[int, ...]) -> int:
        """The number of leading tokens that an earlier prompt has too; then this one is an earlier prompt itself."""
        # Big-endian bytes are ordered as the ids are.
        prompt = np.asarray(token_ids, dtype=">u4").tobytes()
        place = bisect_left(self._sorted, prompt)
        shared = max((_shared(prompt, other) for other in self._sorted[max(0, place - 1) : place + 1]), default=0)
        self._sorted.insert(place, prompt)
        return shared


def _shared(one: bytes, other: bytes) -> int:
    length = min(len(one), len(other))
    differing = np.flatnonzero(np.frombuffer(one[:length], ">u4") != np.frombuffer(other[:length], ">u4"))
    return int(differing[0]) if differing.size else length // 4
