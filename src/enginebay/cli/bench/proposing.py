"""How much load `bench --url` proposes: as much as fits into the time that there is, and no less than figures need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginebay.errors import ConfigError
from enginebay.loadtest.asking import MAX_TOKENS as MAX_TOKENS_ASKED
from enginebay.loadtest.schedule import Speed, weight_of

DEFAULT_MINUTES = {1: 2.0, 2: 5.0}
"""By the number of servers."""
NUM_STARTS_OF_TWO = 3
"""Fewer give no verdict."""
NUM_WARMUP_REQUESTS = 4
MAX_REQUESTS = 160

TokenBounds = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of a load, but for the number of its requests."""

    users: tuple[int, ...]
    input_tokens: TokenBounds
    output_tokens: TokenBounds
    min_requests: int
    """Two for each user, and never fewer than a median needs."""
    num_logprob_prompts: int

    def seconds(self, num_requests: int, speeds: Sequence[Speed], *, num_starts: int) -> float:
        """For all servers."""
        per_start = sum(self._seconds_of_one(speed) for speed in speeds)
        return num_starts * (num_requests + NUM_WARMUP_REQUESTS) * per_start + self._seconds_of_asking(speeds)

    def num_requests(self, seconds: float, speeds: Sequence[Speed], *, num_starts: int) -> int:
        """That fit into so many seconds; may be negative."""
        per_start = sum(self._seconds_of_one(speed) for speed in speeds)
        left_s = seconds - self._seconds_of_asking(speeds)
        return int(left_s / (num_starts * per_start)) - NUM_WARMUP_REQUESTS

    def _seconds_of_one(self, speed: Speed) -> float:
        """Once under each load."""
        weight = weight_of(sum(self.input_tokens) / 2, sum(self.output_tokens) / 2)
        return sum(weight / speed.tokens_per_s(users) for users in self.users)

    def _seconds_of_asking(self, speeds: Sequence[Speed]) -> float:
        """Two servers are asked once more what they say, with log-probabilities."""
        if len(speeds) < 2:
            return 0.0
        weight = weight_of(sum(self.input_tokens) / 2, min(MAX_TOKENS_ASKED, sum(self.output_tokens) / 2))
        return sum(self.num_logprob_prompts * weight / speed.tokens_per_s(max(self.users)) for speed in speeds)


SHAPES = (
    Shape(users=(1, 8), input_tokens=(32, 256), output_tokens=(32, 64), min_requests=24, num_logprob_prompts=16),
    Shape(users=(1, 8), input_tokens=(32, 128), output_tokens=(16, 32), min_requests=16, num_logprob_prompts=8),
    Shape(users=(1, 4), input_tokens=(16, 64), output_tokens=(12, 24), min_requests=8, num_logprob_prompts=8),
    Shape(users=(1,), input_tokens=(16, 64), output_tokens=(8, 16), min_requests=6, num_logprob_prompts=4),
)
"""From what tells most to what tells least; the slower the servers, the later one of them."""
MAX_USERS = max(users for shape in SHAPES for users in shape.users)


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    shape: Shape
    num_requests: int
    num_starts: int
    seconds: float
    budget_s: float

    @property
    def in_words(self) -> str:
        users = " and by ".join(f"{users} user{'' if users == 1 else 's'}" for users in self.shape.users)
        rounds = "" if self.num_starts == 1 else f", {self.num_starts} rounds of each server"
        beyond = "" if self.seconds <= self.budget_s else ", which is more: fewer or shorter requests tell nothing"
        return (
            f"proposed: {self.num_requests} requests by {users}{rounds}, about {_minutes(self.seconds)} in all; "
            f"there are {_minutes(self.budget_s)} for it{beyond} (--minutes)"
        )


def propose(speeds: Sequence[Speed], *, minutes: float | None) -> Proposal:
    """speeds: one for each server. minutes: None for the default. Raises ConfigError for no time at all.

    Takes longer than that where the least that tells anything does.
    """
    if minutes is not None and not minutes > 0:
        raise ConfigError(f"--minutes is {minutes:g}", path="--minutes", expected="more than 0")
    budget_s = 60 * (DEFAULT_MINUTES[len(speeds)] if minutes is None else minutes)
    num_starts = NUM_STARTS_OF_TWO if len(speeds) > 1 else 1
    shape, num_requests = _largest(speeds, budget_s, num_starts=num_starts)
    seconds = shape.seconds(num_requests, speeds, num_starts=num_starts)
    return Proposal(shape=shape, num_requests=num_requests, num_starts=num_starts, seconds=seconds, budget_s=budget_s)


def _largest(speeds: Sequence[Speed], budget_s: float, *, num_starts: int) -> tuple[Shape, int]:
    for shape in SHAPES:
        num_requests = min(MAX_REQUESTS, shape.num_requests(budget_s, speeds, num_starts=num_starts))
        if num_requests >= shape.min_requests:
            return shape, num_requests
    return SHAPES[-1], SHAPES[-1].min_requests


def _minutes(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
