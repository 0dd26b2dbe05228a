"""Who drafts how much in a step."""

from __future__ import annotations

from enginebay.engine.plan import ScheduledSequence, StepPlan
from enginebay.engine.scheduler import Scheduler
from enginebay.engine.sequence import Sequence
from enginebay.engine.speculation.draft_length import DraftCost, DraftLength
from enginebay.engine.speculation.proposer import Proposer, Wanted


class Speculator:
    """Adds drafts to the sequences of a plan that decode.

    Drafts take what a step leaves over: tokens of the budget after everyone in the plan has theirs, and blocks that are
    free after everyone was admitted who could be. They preempt nobody, and blocks beyond the accepted tokens are given
    back with the step. Never is more drafted than the request and the context have room for.

    Requests with penalties do not speculate: what is penalised at a draft would depend on the drafts before it.
    """

    def __init__(self, proposer: Proposer, *, max_num_tokens: int, max_model_len: int, cost: DraftCost | None) -> None:
        """cost: None drafts max_num_tokens always."""
        self._proposer = proposer
        self._max_num_tokens, self._max_model_len = max_num_tokens, max_model_len
        self._cost = cost

    def draft(self, plan: StepPlan, scheduler: Scheduler) -> None:
        num_spare_tokens = scheduler.num_spare_tokens(plan)
        cost_ratio = None if self._cost is None else self._cost.ratio(len(plan.sampled))
        drafting: list[ScheduledSequence] = []
        wanted: list[Wanted] = []
        for item in plan.scheduled:
            num_tokens = min(self._num_tokens(item, cost_ratio), num_spare_tokens)
            if num_tokens > 0 and (num_tokens := scheduler.cover_drafts(item.sequence, num_tokens)):
                drafting.append(item)
                wanted.append(Wanted(item.sequence, num_tokens))
                num_spare_tokens -= num_tokens
        if not wanted:
            return
        for item, draft in zip(drafting, self._proposer.propose(wanted), strict=True):
            item.num_new_tokens += len(draft.token_ids)
            item.draft_token_ids, item.draft_probabilities = draft.token_ids, draft.probabilities

    def note(self, item: ScheduledSequence, num_accepted: int) -> None:
        """What became of the drafts of a sequence; it is advanced already."""
        sequence = item.sequence
        sequence.num_draft_computed_tokens = min(sequence.num_draft_computed_tokens, sequence.num_computed_tokens)
        if sequence.draft_length is not None:
            sequence.draft_length.note(len(item.draft_token_ids), num_accepted)

    def _num_tokens(self, item: ScheduledSequence, cost_ratio: float | None) -> int:
        sequence = item.sequence
        if not item.samples or item.num_new_tokens != 1 or not sequence.num_output_tokens:
            return 0
        if sequence.request.is_penalised or (room := self._room(sequence)) <= 0:
            return 0
        if cost_ratio is None:
            return min(self._max_num_tokens, room)
        if sequence.draft_length is None:
            sequence.draft_length = DraftLength(max_num_tokens=self._max_num_tokens)
        return min(sequence.draft_length.next(cost_ratio), room)

    def _room(self, sequence: Sequence) -> int:
        """A step gives one token more than it drafts."""
        num_left = min(
            sequence.request.max_tokens - sequence.num_output_tokens, self._max_model_len - sequence.num_tokens
        )
        return num_left - 1
