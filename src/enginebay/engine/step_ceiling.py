"""When a step runs out of memory, a smaller one is computed: nobody fails for having been many."""

from __future__ import annotations

from enginebay.engine.plan import ScheduledSequence, StepPlan

NUM_FINE_STEPS_TO_RISE = 32


class StepCeiling:
    """Most tokens of a step, after one has run out of memory; no ceiling before.

    It is half of the step that failed, and doubles after some steps that did not, until none of them touches it.
    Below a ceiling nobody speculates, and a prompt is computed in chunks whatever `chunked_prefill` says.
    """

    def __init__(self) -> None:
        self._num_tokens: int | None = None
        self._num_fine_steps = 0

    @property
    def is_in_force(self) -> bool:
        return self._num_tokens is not None

    def hold(self, plan: StepPlan) -> None:
        """Cut a plan that is above it."""
        if self._num_tokens is not None and plan.num_computed_tokens > self._num_tokens:
            cut(plan, self._num_tokens)

    def lower(self, plan: StepPlan) -> bool:
        """Cut the plan to half of what ran out of memory; false where it was a single token."""
        num_tokens = plan.num_computed_tokens
        if num_tokens <= 1:
            return False
        self._num_tokens, self._num_fine_steps = num_tokens // 2, 0
        cut(plan, self._num_tokens)
        return True

    def note_fine(self, plan: StepPlan) -> None:
        """The plan was computed."""
        if self._num_tokens is None:
            return
        self._num_fine_steps += 1
        if self._num_fine_steps >= NUM_FINE_STEPS_TO_RISE:
            is_touched = plan.num_computed_tokens * 2 > self._num_tokens
            self._num_tokens = self._num_tokens * 2 if is_touched else None
            self._num_fine_steps = 0


def cut(plan: StepPlan, num_tokens: int) -> None:
    """Keep the first in order with so many tokens; the others compute theirs in a later step.

    Padding, ended sequences and drafts go first: nobody needs them.
    """
    kept: list[ScheduledSequence] = []
    for item in plan.scheduled:
        _strip(item)
        num_new_tokens = 0 if item.is_idle else min(item.num_new_tokens, num_tokens)
        if num_new_tokens:
            item.samples = item.samples and num_new_tokens == item.num_new_tokens
            item.num_new_tokens = num_new_tokens
            num_tokens -= num_new_tokens
            kept.append(item)
    plan.scheduled = kept


def _strip(item: ScheduledSequence) -> None:
    item.num_padding_tokens = 0
    item.num_new_tokens -= len(item.draft_token_ids)
    item.draft_token_ids, item.draft_probabilities = [], None
    item.sequence.num_draft_computed_tokens = min(item.sequence.num_draft_computed_tokens, item.start)


def is_out_of_memory(error: Exception) -> bool:
    """MemoryError, torch.OutOfMemoryError, or the RuntimeError of PyTorch's allocator for the CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
