"""How large the batch may be by how many wait: pure rules, which the dynamic policy asks before every step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

LESSON_LONG_QUEUE = 100
LESSON_LARGE_BATCH, LESSON_SMALL_BATCH = 256, 32

SMALLEST_BATCH = 8
SMALLEST_BUDGET = 256
SHRINK_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class BatchSize:
    num_slots: int
    """How many sequences may run."""
    max_num_batched_tokens: int
    """How many tokens one step may compute."""


@dataclass(frozen=True, slots=True)
class BatchBounds:
    most: BatchSize
    """max_num_seqs and max_num_batched_tokens of the settings."""
    fewest_tokens: int
    """A step of fewer could leave someone without a token: it holds one for each of the most slots, and without
    chunked prefill a whole context."""


@dataclass(frozen=True, slots=True)
class Load:
    num_waiting: int
    num_running: int
    now: float
    size: BatchSize
    """In force; of nothing before the first step."""
    since: float
    """When it came into force."""


BatchRule = Callable[[Load, BatchBounds], BatchSize]
"""The size for the step that comes; the policy holds it within the bounds."""


def lesson(load: Load, bounds: BatchBounds) -> BatchSize:
    """More than 100 wait: 256 slots, else 32; the token budget stays. It has no memory, so that a queue about that
    long makes it flap; whoever was admitted runs on."""
    num_slots = LESSON_LARGE_BATCH if load.num_waiting > LESSON_LONG_QUEUE else LESSON_SMALL_BATCH
    return BatchSize(num_slots, bounds.most.max_num_batched_tokens)


def follow_queue(load: Load, bounds: BatchBounds) -> BatchSize:
    """A slot for everyone who is here, up to the most: nobody is served sooner for leaving another waiting.
    Grows at once, by doubling, as far as they need; halves when half the slots would do for all of them, at most once a
    second, so that the same users coming back one by one find their slots.
    What follows with the slots is the token budget: short steps, so even gaps between tokens, while few are here, and
    long ones, which compute the prompts of many for less, when they are many."""
    num_slots = max(load.size.num_slots, SMALLEST_BATCH)
    num_here = load.num_running + load.num_waiting
    if num_here <= num_slots // 2 and load.now - load.since >= SHRINK_AFTER_S:
        num_slots = max(num_slots // 2, SMALLEST_BATCH)
    while num_slots < min(num_here, bounds.most.num_slots):
        num_slots *= 2
    num_slots = min(num_slots, bounds.most.num_slots)
    return BatchSize(num_slots, _budget_for(num_slots, bounds))


def _budget_for(num_slots: int, bounds: BatchBounds) -> int:
    share = bounds.most.max_num_batched_tokens * num_slots // bounds.most.num_slots
    return max(SMALLEST_BUDGET, share)


RULES: Mapping[str, BatchRule] = {"follow_queue": follow_queue, "lesson": lesson}
