"""What steps took, and from it the least that a request can still take: a bound, not a forecast."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

NUM_SAMPLES_TO_TRUST = 8
"""Steps of a size before it says anything: the first ones of a process are slow."""
STALE_AFTER_S = 30.0
"""What was not measured for so long is forgotten: who refuses by it would never measure again."""


@dataclass(slots=True)
class _Fastest:
    """Of the steps of one size."""

    step_s: float = math.inf
    s_per_token: float = math.inf
    noted_at: float = -math.inf
    num_samples: int = 0
    """Those before are counted too, as far as they were not forgotten: prompts of one size may be rare."""

    def note(self, step_s: float, *, num_tokens: int, now: float) -> None:
        self.step_s = min(self.step_s, step_s)
        self.s_per_token = min(self.s_per_token, step_s / num_tokens)
        self.noted_at = now
        self.num_samples += 1

    def is_stale(self, now: float) -> bool:
        return now - self.noted_at > STALE_AFTER_S

    def joined(self, earlier: _Fastest) -> _Fastest:
        step_s, s_per_token = min(self.step_s, earlier.step_s), min(self.s_per_token, earlier.s_per_token)
        return _Fastest(step_s, s_per_token, self.noted_at, self.num_samples)


class StepTimes:
    """The fastest steps of each size (by powers of two of their tokens), of this half of STALE_AFTER_S and the last.

    No number of slow steps says that a fast one is not possible; a machine that has become slower is believed when the
    fast ones are forgotten.

    Sizes speak for each other by two rules that hold for every model: a step of more tokens takes no less time, and
    no more time for each token. Nothing that was measured says nothing: the bound is then 0.
    """

    def __init__(self) -> None:
        self._latest: dict[int, _Fastest] = {}
        self._before: dict[int, _Fastest] = {}
        self._since = -math.inf
        """When the latest half began."""
        self._most_output_tokens = 1

    def note(self, step_s: float, *, num_tokens: int, most_output_tokens: int, now: float) -> None:
        """most_output_tokens: what the luckiest request of the step was given; more than 1 with speculation."""
        if num_tokens < 1:
            return
        self._turn(now)
        size = num_tokens.bit_length() - 1
        if size not in self._latest:
            self._latest[size] = _Fastest(num_samples=self._before[size].num_samples if size in self._before else 0)
        self._latest[size].note(step_s, num_tokens=num_tokens, now=now)
        self._most_output_tokens = max(self._most_output_tokens, most_output_tokens)

    def least(self, now: float) -> LeastTimes:
        self._turn(now)
        known = dict(self._before)
        for size, fastest in self._latest.items():
            known[size] = fastest.joined(known[size]) if size in known else fastest
        trusted = {size: fastest for size, fastest in known.items() if fastest.num_samples >= NUM_SAMPLES_TO_TRUST}
        return LeastTimes(trusted, most_output_tokens=self._most_output_tokens)

    def _turn(self, now: float) -> None:
        if now - self._since > STALE_AFTER_S / 2:
            self._before, self._latest, self._since = self._before | self._latest, {}, now
        self._before = {size: fastest for size, fastest in self._before.items() if not fastest.is_stale(now)}


class LeastTimes:
    """What is known at one instant: many requests are held against it."""

    def __init__(self, trusted: Mapping[int, _Fastest], *, most_output_tokens: int) -> None:
        self._trusted, self._most_output_tokens = trusted, most_output_tokens
        self._step_s: dict[int, float] = {0: 0.0}

    def step_s(self, num_tokens: int) -> float:
        """No step of so many tokens takes less, as far as was measured."""
        if num_tokens not in self._step_s:
            bounds = (_bound_s(num_tokens, size, fastest) for size, fastest in self._trusted.items())
            self._step_s[num_tokens] = max(bounds, default=0.0)
        return self._step_s[num_tokens]

    def request_s(self, *, num_uncomputed_tokens: int, num_output_tokens: int, most_step_tokens: int) -> float:
        """For a request that has the engine to itself; its first token comes with the last step of its prompt."""
        num_full_steps, num_left = divmod(num_uncomputed_tokens, most_step_tokens)
        prompt_s = num_full_steps * self.step_s(most_step_tokens) + self.step_s(num_left)
        num_decode_steps = -(-max(0, num_output_tokens - 1) // self._most_output_tokens)
        return prompt_s + num_decode_steps * self.step_s(1)


def _bound_s(num_tokens: int, size: int, fastest: _Fastest) -> float:
    """From steps of [2**size, 2**(size + 1)) tokens."""
    if num_tokens >= 2 ** (size + 1):
        return fastest.step_s
    return min(num_tokens, 2**size) * fastest.s_per_token
