"""Deadlines: who can no longer make it is told so before it costs a token, and who is late is stopped."""

from __future__ import annotations

from enginebay.engine.limits import EngineLimits
from enginebay.engine.plan import StepPlan
from enginebay.engine.prefix_cache import PrefixCache
from enginebay.engine.request import EngineOutput, EngineRequest
from enginebay.engine.sequence import Sequence, SequenceStatus
from enginebay.engine.step_times import LeastTimes, StepSize, StepTimes

SAMPLED_ROW_TOKENS = 4
"""A row that is sampled costs more than a token of a prompt: it has logits. All but one in a step count as so many
tokens more, lest prompts be thought as slow as the decoding of many."""


class Deadlines:
    """Looks at the sequences that have a deadline. It covers the whole output, which may end early: what counts as
    certain is `num_certain_tokens`, computed alone and at the best speed that was measured."""

    def __init__(self, *, most_step_tokens: int, limits: EngineLimits, prefix_cache: PrefixCache | None) -> None:
        self._step_times = StepTimes()
        self._most_step_tokens, self._limits, self._prefix_cache = most_step_tokens, limits, prefix_cache
        self._watched: list[Sequence] = []

    def watch(self, sequence: Sequence) -> None:
        """Until it has finished, by whatever end."""
        if sequence.request.deadline_at is not None:
            self._watched.append(sequence)

    def take_late(self, now: float) -> list[tuple[Sequence, str]]:
        """Those who are late, or wait and will be, with what to tell them; they are watched no longer."""
        if not self._watched:
            return []
        least = self._step_times.least(now)
        late: list[tuple[Sequence, str]] = []
        rest: list[Sequence] = []
        for sequence in self._watched:
            if sequence.status is SequenceStatus.FINISHED:
                continue
            if (problem := self._problem(sequence, now, least=least)) is not None:
                late.append((sequence, problem))
            else:
                rest.append(sequence)
        self._watched = rest
        return late

    def note_step(self, plan: StepPlan, outputs: list[EngineOutput], *, step_s: float, now: float) -> None:
        """A step was computed at the first try."""
        self._step_times.note(
            step_s,
            _size_of(plan),
            most_output_tokens=max((len(output.token_ids) for output in outputs), default=1),
            now=now,
        )

    def next_at(self) -> float | None:
        """The nearest deadline."""
        watched = (s.request.deadline_at for s in self._watched if s.status is not SequenceStatus.FINISHED)
        return min((deadline_at for deadline_at in watched if deadline_at is not None), default=None)

    def problem(self, sequence: Sequence, now: float) -> str | None:
        """Why the deadline cannot be met; None while it may be, and where there is none."""
        return self._problem(sequence, now, least=self._step_times.least(now))

    def _problem(self, sequence: Sequence, now: float, *, least: LeastTimes) -> str | None:
        """One that runs is only asked whether it is late: it has cost something, and may end at any token."""
        deadline_at = sequence.request.deadline_at
        if deadline_at is None:
            return None
        left_s = deadline_at - now
        if left_s <= 0:
            return "the request's deadline passed before its output was complete"
        if (
            sequence.status is not SequenceStatus.WAITING
            or self._least_s(sequence, least, num_cached_tokens=0) <= left_s
        ):
            return None
        least_s = self._least_s(sequence, least, num_cached_tokens=self._num_cached_tokens(sequence))
        if least_s <= left_s:
            return None
        return (
            f"the request's deadline is {left_s:.3g} s away and cannot be met: alone, and at the best speed measured "
            f"here, it would take {least_s:.3g} s; give it more time or ask for less"
        )

    def _least_s(self, sequence: Sequence, least: LeastTimes, *, num_cached_tokens: int) -> float:
        room_for_output = self._limits.max_model_len - sequence.num_prompt_tokens
        return least.request_s(
            num_computed_tokens=num_cached_tokens,
            num_tokens=sequence.num_tokens,
            num_output_tokens=min(num_certain_tokens(sequence.request), room_for_output) - sequence.num_output_tokens,
            most_step_tokens=self._most_step_tokens,
        )

    def _num_cached_tokens(self, sequence: Sequence) -> int:
        """Asked last: it hashes the prompt."""
        return 0 if self._prefix_cache is None else len(self._prefix_cache.find(sequence)) * self._limits.block_size


def _size_of(plan: StepPlan) -> StepSize:
    """At most what it did: each draft is a row that reads the keys of its sequence for itself."""
    num_sampled_rows = sum(1 + len(item.draft_token_ids) for item in plan.sampled)
    chunks = [StepSize.of_chunk(item.start, item.num_new_tokens + item.num_padding_tokens) for item in plan.scheduled]
    num_keys = (
        chunk.num_pairs if item.draft_token_ids else chunk.num_keys
        for item, chunk in zip(plan.scheduled, chunks, strict=True)
    )
    return StepSize(
        plan.num_computed_tokens + SAMPLED_ROW_TOKENS * max(0, num_sampled_rows - 1),
        sum(chunk.num_pairs for chunk in chunks),
        sum(num_keys),
    )


def num_certain_tokens(request: EngineRequest) -> int:
    """Output tokens before which the request cannot end."""
    may_stop = not request.ignore_eos or bool(request.stop_token_ids) or request.has_stop_strings
    return min(request.max_tokens, max(1, request.min_tokens)) if may_stop else request.max_tokens
