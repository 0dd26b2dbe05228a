"""Continuous batching: sequences join and leave at every step."""

from __future__ import annotations

from enginebay.engine.policies.base import Policy
from enginebay.engine.sequence import Sequence


class ContinuousPolicy(Policy):
    def admissible(self, waiting: list[Sequence], running: list[Sequence], now: float) -> list[Sequence]:
        """As many as there are slots for, and tokens left in the step: nobody holds a slot to wait in it."""
        admitted: list[Sequence] = []
        budget = self._budget_for(waiting[0], running) if waiting else 0
        for sequence in waiting[: max(0, self.num_slots - len(running))]:
            num_tokens = self._chunk(sequence.num_uncomputed_tokens, budget)
            if num_tokens == 0:
                break
            admitted.append(sequence)
            budget -= num_tokens
        return admitted

    def _budget_for(self, newcomer: Sequence, running: list[Sequence]) -> int:
        """Tokens of the step that those who decode, and those whose prompt comes first, leave over."""
        taken = 0
        for sequence in running:
            is_decoding = sequence.num_uncomputed_tokens == 1
            if is_decoding or sequence.order < newcomer.order:
                taken += sequence.num_uncomputed_tokens
        return max(0, self.max_num_batched_tokens - taken)
