"""What a batching policy decides: who is given a slot and when, how a step is shared out, and who leaves it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from enginebay.engine.plan import ScheduledSequence
from enginebay.engine.sequence import Sequence, SequenceStatus


class Policy(ABC):
    """The scheduler owns the queue, the running sequences and the blocks; a policy only looks at them.

    `waiting` and `running` are always in order: smaller priority first, then earlier arrival.
    """

    def __init__(self, *, num_slots: int, max_num_batched_tokens: int, chunked_prefill: bool = True) -> None:
        """Needs max_num_batched_tokens >= num_slots, so that every running sequence can have one token a step."""
        self.num_slots = num_slots
        """In force."""
        self.max_num_slots = num_slots
        """The most that there ever are."""
        self.max_num_batched_tokens = max_num_batched_tokens
        self.chunked_prefill = chunked_prefill

    def resize(self, *, num_waiting: int, num_running: int, now: float) -> None:
        """Asked before each step: a batch of one size stays as it is."""
        return

    @abstractmethod
    def admissible(self, waiting: list[Sequence], running: list[Sequence], now: float) -> list[Sequence]:
        """Who may take a slot now, in order. The scheduler admits them until blocks run out."""

    def num_reserved_tokens(self, sequence: Sequence) -> int:
        """Positions for which a sequence is given blocks on admission; what it needs later it gets as it grows."""
        return sequence.num_tokens

    def share(self, running: list[Sequence]) -> list[ScheduledSequence]:
        """Share out the tokens of one step: one to each sequence that decodes, what is left to prompts in order."""
        scheduled = [next_tokens(sequence, 1) for sequence in running if sequence.num_uncomputed_tokens == 1]
        budget = self.max_num_batched_tokens - len(scheduled)
        for sequence in running:
            if sequence.num_uncomputed_tokens > 1:
                num_tokens = self._chunk(sequence.num_uncomputed_tokens, budget)
                if num_tokens == 0:
                    break
                scheduled.append(next_tokens(sequence, num_tokens))
                budget -= num_tokens
        return scheduled

    def leaving(self, running: list[Sequence]) -> Iterable[Sequence]:
        """Who gives its slot and blocks back after a step."""
        return [sequence for sequence in running if sequence.status is SequenceStatus.FINISHED]

    def next_admission_at(self, waiting: list[Sequence]) -> float | None:
        """When somebody who waits may be admitted though nobody else comes; None is at once.

        Asked only while nothing runs.
        """
        return None

    def _chunk(self, num_uncomputed_tokens: int, budget: int) -> int:
        """How much of a prompt fits in what is left of the step; without chunked prefill all of it or nothing."""
        if self.chunked_prefill or num_uncomputed_tokens <= budget:
            return min(num_uncomputed_tokens, budget)
        return 0


def next_tokens(sequence: Sequence, num_new_tokens: int, *, num_padding_tokens: int = 0) -> ScheduledSequence:
    """Compute the next tokens of a sequence, and sample one where they are its last."""
    return ScheduledSequence(
        sequence,
        start=sequence.num_computed_tokens,
        num_new_tokens=num_new_tokens,
        num_padding_tokens=num_padding_tokens,
        samples=num_new_tokens == sequence.num_uncomputed_tokens and sequence.request.max_tokens > 0,
    )
