"""The engine's counters: what was computed, what of it was waste, and where time went."""

from __future__ import annotations

from enginebay.clock import Clock
from enginebay.engine.plan import StepPlan
from enginebay.engine.request import EngineCounters, EngineOutput
from enginebay.engine.sequence import Sequence


class Meter:
    """Writes one `EngineCounters`, in place.

    Useful slots of a step are those whose sequence computes tokens of its own and has not ended; all others, empty,
    held by an ended sequence, or waiting for their turn in the token budget, are idle.

    `batch_wait_s` is, summed over requests, the time from a request's arrival (its `arrived_at`, else the call of
    `Engine.add`) to its first slot: a batch that forms, a slot or blocks that are taken, and the rest of the step
    that was being computed. A request that never gets a slot adds nothing; waiting again after a preemption neither.
    """

    def __init__(self, clock: Clock, *, num_blocks: int) -> None:
        self.counters = EngineCounters(num_blocks=num_blocks, num_free_blocks=num_blocks, num_finished_by_reason={})
        self._clock = clock
        self._busy_since: float | None = None

    def note_busy(self, is_busy: bool) -> None:
        """Call after every change: time counts as busy while a request is admitted or waits."""
        now = self._clock.now()
        if self._busy_since is not None:
            self.counters.busy_s += now - self._busy_since
        self._busy_since = now if is_busy else None

    def count_plan(self, plan: StepPlan) -> None:
        counters = self.counters
        for sequence in plan.admitted:
            assert sequence.queue_s is not None
            counters.batch_wait_s += sequence.queue_s
        counters.num_admitted += len(plan.admitted)
        counters.num_preemptions += len(plan.preempted)

    def count_step(self, plan: StepPlan, *, started_at: float) -> None:
        """A forward pass was made, or tried; its parts are timed where they are."""
        counters = self.counters
        num_useful = sum(not item.is_idle for item in plan.scheduled)
        counters.num_steps += 1
        counters.step_s += self._clock.now() - started_at
        counters.num_computed_tokens += plan.num_computed_tokens
        counters.num_padding_tokens += sum(item.num_padding_tokens for item in plan.scheduled)
        counters.num_slot_steps += plan.num_slots
        counters.num_idle_slot_steps += plan.num_slots - num_useful
        counters.batch_size = num_useful

    def count_drafts(self, num_drafted: int, num_accepted: int) -> None:
        """Of one sequence in one step."""
        self.counters.num_drafts += 1
        self.counters.num_drafted_tokens += num_drafted
        self.counters.num_accepted_tokens += num_accepted

    def count_prompt(self, sequence: Sequence) -> None:
        self.counters.num_prompt_tokens += sequence.num_prompt_tokens

    def count_late(self, sequence: Sequence) -> None:
        """Its deadline ended it; it was refused where it had cost nothing yet."""
        if sequence.admitted_at is None:
            self.counters.num_deadline_refused += 1

    def count_output(self, output: EngineOutput) -> None:
        self.counters.num_output_tokens += len(output.token_ids)
        if output.finish_reason is not None:
            self.count_finished(output.finish_reason)

    def count_finished(self, reason: str) -> None:
        by_reason = self.counters.num_finished_by_reason
        by_reason[reason] = by_reason.get(reason, 0) + 1
