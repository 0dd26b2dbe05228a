"""What one step computes: the scheduler writes it, the model runner and the sampler read it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from enginebay.engine.sequence import Sequence

SCRATCH_BLOCK = 0
"""Block 0 belongs to nobody: padding writes its keys and values there."""


@dataclass(slots=True)
class ScheduledSequence:
    """The tokens of one sequence in one step.

    [0, start)                      computed in earlier steps: their keys and values stand in the blocks
    [start, start + num_new_tokens) computed now, into the sequence's own blocks
    then num_padding_tokens         computed now into the scratch block and thrown away

    num_new_tokens may be 0 beside padding: a short prompt of a static batch waits while longer ones catch up.
    Drafts (speculative decoding) are the last of the new tokens. They are not among the sequence's own: those that are
    accepted become so with the step.
    """

    sequence: Sequence
    start: int
    num_new_tokens: int
    num_padding_tokens: int = 0
    samples: bool = False
    """The last new token's logits are sampled: it is the last token known of the sequence."""
    is_idle: bool = False
    """A finished sequence that holds its slot (static batching): computed again, never sampled."""
    draft_token_ids: list[int] = field(default_factory=list[int])
    """What may come next: num_new_tokens is one more, and the logits of each of these tokens are sampled too."""
    draft_probabilities: Tensor | None = None
    """(num_drafts, vocab_size): the distributions that the drafts were drawn from; None where nothing was drawn."""


@dataclass(slots=True)
class StepPlan:
    scheduled: list[ScheduledSequence]
    preempted: list[Sequence] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    """Given a slot for the first time in this step."""
    num_slots: int = 1
    """In force, or still taken of a larger batch before: for `idle_slot_ratio`."""

    @property
    def num_computed_tokens(self) -> int:
        return sum(item.num_new_tokens + item.num_padding_tokens for item in self.scheduled)

    @property
    def sampled(self) -> list[ScheduledSequence]:
        """In the order of the rows of the logits; the rows of all drafts follow, in the same order."""
        return [item for item in self.scheduled if item.samples]
