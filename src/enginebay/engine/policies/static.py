"""Static batching: wait for a batch, pad it, and run it until its longest member has ended.

What is modelled, all of it computed for real:
- A batch forms when as many requests wait as there are slots, or when the oldest has waited for the time-out.
  Nobody joins it later.
- Blocks for the whole life of each member (prompt and max_tokens) are reserved when it forms, as a batch in one
  dense tensor would; it takes fewer members where memory ends, and is never preempted.
- Prompts are padded on the left to the longest, so that all of them end at the same position. Padding goes through
  the whole model. A padded batch larger than the token budget is computed in slices of columns, the same width for
  every member; the budget bounds memory here as in every policy.
- Tokens are delivered as they are made.
- A member that ended holds its slot and its blocks, and its last token is computed again in every step, until the
  longest has ended. A member that was cancelled or failed gives its blocks back at once; its slot stays empty.
"""

from __future__ import annotations

from collections.abc import Iterable

from enginebay.engine.plan import ScheduledSequence
from enginebay.engine.policies.base import Policy, next_tokens
from enginebay.engine.sequence import Sequence, SequenceStatus


class StaticPolicy(Policy):
    def __init__(
        self,
        *,
        num_slots: int,
        max_num_batched_tokens: int,
        max_model_len: int,
        timeout_s: float,
        chunked_prefill: bool = True,
    ) -> None:
        super().__init__(
            num_slots=num_slots, max_num_batched_tokens=max_num_batched_tokens, chunked_prefill=chunked_prefill
        )
        self._max_model_len = max_model_len
        self._timeout_s = timeout_s

    def admissible(self, waiting: list[Sequence], running: list[Sequence], now: float) -> list[Sequence]:
        if running or not waiting:
            return []
        admission_at = self.next_admission_at(waiting)
        if admission_at is not None and now < admission_at:
            return []
        return waiting[: self._num_members(waiting)]

    def num_reserved_tokens(self, sequence: Sequence) -> int:
        return sequence.max_num_computed_tokens(self._max_model_len)

    def share(self, running: list[Sequence]) -> list[ScheduledSequence]:
        """The next columns of the batch. While it decodes there is one column left, and it has no padding."""
        columns_left = max(s.num_uncomputed_tokens for s in running if s.status is SequenceStatus.RUNNING)
        width = columns_left
        if self.chunked_prefill:
            width = min(columns_left, max(1, self.max_num_batched_tokens // len(running)))
        return [self._columns(sequence, columns_left, width) for sequence in running]

    def leaving(self, running: list[Sequence]) -> Iterable[Sequence]:
        has_ended = all(sequence.status is SequenceStatus.FINISHED for sequence in running)
        return list(running) if has_ended else []

    def next_admission_at(self, waiting: list[Sequence]) -> float | None:
        if len(waiting) >= self.num_slots:
            return None
        return min(sequence.arrived_at for sequence in waiting) + self._timeout_s

    def _num_members(self, waiting: list[Sequence]) -> int:
        """Every slot; without chunked prefill only as many as fit, padded, in the tokens of one step."""
        num_columns = 0
        for index, sequence in enumerate(waiting[: self.num_slots]):
            num_columns = max(num_columns, sequence.num_tokens)
            if not self.chunked_prefill and num_columns * (index + 1) > self.max_num_batched_tokens:
                return index
        return min(len(waiting), self.num_slots)

    def _columns(self, sequence: Sequence, columns_left: int, width: int) -> ScheduledSequence:
        if sequence.status is SequenceStatus.FINISHED:
            return ScheduledSequence(sequence, start=sequence.num_computed_tokens - 1, num_new_tokens=1, is_idle=True)
        num_padding_tokens = min(width, columns_left - sequence.num_uncomputed_tokens)
        return next_tokens(sequence, width - num_padding_tokens, num_padding_tokens=num_padding_tokens)
