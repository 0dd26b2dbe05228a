"""Who computes in a step, and in which blocks."""

from __future__ import annotations

from bisect import insort
from operator import attrgetter

from enginebay.engine.block_pool import BlockPool
from enginebay.engine.plan import ScheduledSequence, StepPlan
from enginebay.engine.policies.base import Policy
from enginebay.engine.prefix_cache import PrefixCache
from enginebay.engine.sequence import Sequence, SequenceStatus

_order = attrgetter("order")


class Scheduler:
    """Queue, slots and blocks. The policy decides who and how much; this sees to it that it can be done.

    `waiting` and `running` are kept in order (priority, then arrival). Priorities are strict: a smaller one goes first,
    and who has a larger one waits for as long as others fill the engine; a deadline bounds that. Within one priority
    nobody is overtaken, and nobody who runs is put back for someone who waits.

    Every running sequence owns blocks for all the tokens it knows. When blocks run out, the last in order gives way: it
    loses its blocks and its progress and goes back to where its order puts it, before everyone who came later. The
    first in order never gives way, and every request fits in the pool alone (`limits.py`), so every admitted request
    ends.
    """

    def __init__(
        self, policy: Policy, pool: BlockPool, *, block_size: int, prefix_cache: PrefixCache | None = None
    ) -> None:
        self.policy = policy
        self.pool = pool
        self.prefix_cache = prefix_cache
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self._block_size = block_size
        self._num_arrived = 0

    def add(self, sequence: Sequence) -> None:
        self._num_arrived += 1
        sequence.arrival_index = self._num_arrived
        insort(self.waiting, sequence, key=_order)

    def schedule(self, now: float) -> StepPlan:
        self.policy.resize(num_waiting=len(self.waiting), num_running=len(self.running), now=now)
        plan = StepPlan([])
        self._grow(plan)
        if not plan.preempted:
            self._admit(plan, now)
        if self.running:
            plan.scheduled = self.policy.share(self.running)
        plan.num_slots = max(self.policy.num_slots, len(self.running))
        return plan

    def num_spare_tokens(self, plan: StepPlan) -> int:
        """What a plan leaves over of the token budget."""
        return self.policy.max_num_batched_tokens - plan.num_computed_tokens

    def cover_drafts(self, sequence: Sequence, num_tokens: int) -> int:
        """Give it blocks for so many positions behind its newest token, as far as free ones go: for how many."""
        num_blocks = len(sequence.block_table) + self.pool.num_free
        num_tokens = min(num_tokens, num_blocks * self._block_size - sequence.num_tokens)
        self._cover(sequence, sequence.num_tokens + num_tokens)
        return num_tokens

    def advance(self, item: ScheduledSequence, *, num_rejected_tokens: int = 0) -> None:
        """Its part of the step was computed, and what was sampled is appended; rejected drafts count for nothing."""
        sequence = item.sequence
        sequence.num_computed_tokens = item.start + item.num_new_tokens - num_rejected_tokens
        if self.prefix_cache is not None:
            self.prefix_cache.learn(sequence)
        num_surplus = len(sequence.block_table) - self._num_blocks(self.policy.num_reserved_tokens(sequence))
        if num_surplus > 0:  # of drafts
            self.pool.release(sequence.block_table[-num_surplus:])
            del sequence.block_table[-num_surplus:]

    def finish(self, sequence: Sequence) -> None:
        """It has ended by itself; when it gives its slot and blocks back is the policy's to say (`release_ended`)."""
        sequence.status = SequenceStatus.FINISHED

    def release_ended(self) -> None:
        for sequence in self.policy.leaving(self.running):
            self.remove(sequence)

    def discard(self, sequence: Sequence) -> None:
        """Remove it, and whatever stands in its blocks: that is not to be trusted."""
        if self.prefix_cache is not None:
            self.prefix_cache.distrust(sequence)
        self.remove(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take it out now, wherever it is; its blocks are free when this returns."""
        (self.waiting if sequence.status is SequenceStatus.WAITING else self.running).remove(sequence)
        self._release_blocks(sequence)
        sequence.status = SequenceStatus.FINISHED

    def next_step_at(self, now: float) -> float | None:
        """When there is something to compute if nobody else comes; None is never."""
        if self.running:
            return now
        if not self.waiting:
            return None
        admission_at = self.policy.next_admission_at(self.waiting)
        return now if admission_at is None else admission_at

    def check_integrity(self) -> None:
        """For tests. Raises AssertionError."""
        self.pool.check_integrity(sequence.block_table for sequence in self.running)
        assert not any(sequence.block_table for sequence in self.waiting), "a waiting sequence owns blocks"
        assert len(self.running) <= self.policy.max_num_slots, "more sequences than slots"
        if self.prefix_cache is not None:
            self.prefix_cache.check_integrity()
        for queue in (self.waiting, self.running):
            assert queue == sorted(queue, key=_order), "a queue is out of order"

    def _grow(self, plan: StepPlan) -> None:
        """Give every running sequence the blocks for its newest token; whoever is last in order pays for it."""
        for sequence in list(self.running):
            while sequence.status is SequenceStatus.RUNNING and not self._cover(sequence, sequence.num_tokens):
                plan.preempted.append(self._preempt_last())

    def _admit(self, plan: StepPlan, now: float) -> None:
        """In order and without overtaking: one that does not fit keeps those behind it waiting.

        The policy counts every token of those who wait; a prefix that turns out to be known leaves room in the step for
        more of them, so it is asked until nobody else may come.
        """
        while admissible := self.policy.admissible(self.waiting, self.running, now):
            for sequence in admissible:
                if not self._place(sequence):
                    return
                self.waiting.remove(sequence)
                insort(self.running, sequence, key=_order)
                sequence.status = SequenceStatus.RUNNING
                if sequence.admitted_at is None:
                    sequence.admitted_at = now
                    plan.admitted.append(sequence)

    def _place(self, sequence: Sequence) -> bool:
        """Give it the blocks of its known prefix and free ones for the rest; false where too few are free."""
        num_tokens = self.policy.num_reserved_tokens(sequence)
        known = [] if self.prefix_cache is None else self.prefix_cache.find(sequence)
        num_missing = self._num_blocks(num_tokens) - len(known)
        if num_missing > self.pool.num_free - self.pool.num_free_of(known):
            return False
        self.pool.share(known)
        sequence.block_table = known + self.pool.allocate(num_missing)
        sequence.num_computed_tokens = len(known) * self._block_size
        sequence.num_draft_computed_tokens = 0
        sequence.num_learnt_blocks = len(known)
        if self.prefix_cache is not None and sequence.admitted_at is None:
            sequence.num_cached_tokens = min(sequence.num_computed_tokens, sequence.num_prompt_tokens)
            self.prefix_cache.count(sequence, sequence.num_computed_tokens)
        return True

    def _preempt_last(self) -> Sequence:
        victim = self.running.pop()
        self._release_blocks(victim)
        victim.num_computed_tokens = 0
        victim.num_preemptions += 1
        victim.status = SequenceStatus.WAITING
        insort(self.waiting, victim, key=_order)
        return victim

    def _cover(self, sequence: Sequence, num_tokens: int) -> bool:
        """Own blocks for positions [0, num_tokens); false, and nothing changes, where too few are free."""
        num_missing = self._num_blocks(num_tokens) - len(sequence.block_table)
        if num_missing > self.pool.num_free:
            return False
        if num_missing > 0:
            sequence.block_table += self.pool.allocate(num_missing)
        return True

    def _num_blocks(self, num_tokens: int) -> int:
        return -(-num_tokens // self._block_size)

    def _release_blocks(self, sequence: Sequence) -> None:
        self.pool.release(sequence.block_table)
        sequence.block_table = []
