"""Who drafts how much in a step."""

from __future__ import annotations

import logging
from collections.abc import Sequence as Many

from enginebay.engine.plan import ScheduledSequence, StepPlan
from enginebay.engine.scheduler import Scheduler
from enginebay.engine.sequence import Sequence
from enginebay.engine.speculation.draft_length import DraftCost, DraftLength
from enginebay.engine.speculation.proposer import Draft, Proposer, Wanted
from enginebay.engine.step_ceiling import is_out_of_memory

_log = logging.getLogger(__name__)


class Speculator:
    """Adds drafts to the sequences of a plan that decode.

    Drafts take what a step leaves over: tokens of the budget after everyone in the plan has theirs, and blocks that are
    free after everyone was admitted who could be. They preempt nobody, and blocks beyond the accepted tokens are given
    back with the step. Never is more drafted than the request and the context have room for.

    Requests with penalties do not speculate: what is penalised at a draft would depend on the drafts before it.
    One whose draft fails goes on without drafts, and nobody else notices. Where the drafts of several want memory the
    step is made smaller, and goes without any (`step_ceiling`).
    """

    def __init__(self, proposer: Proposer, *, max_num_tokens: int, max_model_len: int, cost: DraftCost | None) -> None:
        """cost: None drafts max_num_tokens always."""
        self._proposer = proposer
        self._max_num_tokens, self._max_model_len = max_num_tokens, max_model_len
        self._cost = cost
        self.num_failures = 0
        """Drafts that failed, each of another sequence; the first one is logged."""

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
        for item, draft in zip(drafting, self._proposed(wanted), strict=True):
            item.num_new_tokens += len(draft.token_ids)
            item.draft_token_ids, item.draft_probabilities = draft.token_ids, draft.probabilities

    def _proposed(self, wanted: Many[Wanted]) -> list[Draft]:
        try:
            return self._proposer.propose(wanted)
        except Exception as error:
            if is_out_of_memory(error) and len(wanted) > 1:
                raise
            for one in wanted:  # what was drafted before it failed does not count as seen
                sequence = one.sequence
                sequence.num_draft_computed_tokens = min(
                    sequence.num_draft_computed_tokens, sequence.num_computed_tokens
                )
            if len(wanted) > 1:
                return self._proposed_alone(wanted, error)
            self._give_up(wanted[0].sequence, error)
            return [Draft([])]

    def _proposed_alone(self, wanted: Many[Wanted], error: Exception) -> list[Draft]:
        """Where none of them is at fault they fail together in every step: none of them drafts any more."""
        num_failures = self.num_failures
        drafts = [draft for one in wanted for draft in self._proposed([one])]
        if self.num_failures == num_failures:
            for one in wanted:
                self._give_up(one.sequence, error)
        return drafts

    def _give_up(self, sequence: Sequence, error: Exception) -> None:
        sequence.has_draft_failed = True
        self.num_failures += 1
        if self.num_failures == 1:
            _log.warning(
                "drafting failed for request %s, which goes on without; more of these are only counted",
                sequence.request.request_id,
                exc_info=error,
            )

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
        if sequence.request.is_penalised or sequence.has_draft_failed or (room := self._room(sequence)) <= 0:
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
