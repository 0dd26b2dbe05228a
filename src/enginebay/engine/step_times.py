"""What steps took, and from it the least that a request can still take: a bound, not a forecast."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

NUM_SAMPLES_TO_TRUST = 8
"""Steps of a size before it says anything: the first ones of a process are slow."""
STALE_AFTER_S = 30.0
"""What was not measured for so long is forgotten: who refuses by it would never measure again."""


class StepSize(NamedTuple):
    """What the time of a step grows with."""

    num_tokens: int
    num_pairs: int
    """Of a token and a key that it looks at."""
    num_keys: int
    """That are read: those of a prompt's chunk once for all its tokens."""

    @classmethod
    def of_chunk(cls, start: int, num_tokens: int) -> StepSize:
        """Of the tokens of one sequence from position start on."""
        num_pairs = num_tokens * start + num_tokens * (num_tokens + 1) // 2
        return cls(num_tokens, num_pairs, start + num_tokens)


_NOTHING = StepSize(0, 0, 0)


@dataclass(slots=True)
class _Fastest:
    """Of the steps of one class."""

    step_s: float = math.inf
    largest: StepSize = _NOTHING
    """In each respect: what the fastest one is held to have done."""
    noted_at: float = -math.inf
    num_samples: int = 0
    """Those before are counted too, as far as they were not forgotten: prompts of one size may be rare."""

    def note(self, step_s: float, size: StepSize, *, now: float) -> None:
        self.step_s, self.largest = min(self.step_s, step_s), _larger(self.largest, size)
        self.noted_at = now
        self.num_samples += 1

    def bound_s(self, size: StepSize) -> float:
        num_tokens, num_pairs, num_keys = self.largest
        return self.step_s * min(1.0, size[0] / num_tokens, size[1] / num_pairs, size[2] / num_keys)

    def is_news_to(self, known: _Fastest) -> bool:
        """Whether it says something that the other does not."""
        is_trusted = self.num_samples >= NUM_SAMPLES_TO_TRUST
        was_trusted = known.num_samples >= NUM_SAMPLES_TO_TRUST
        is_beyond = self.step_s < known.step_s or _larger(self.largest, known.largest) != known.largest
        return is_trusted and (is_beyond or not was_trusted)

    def is_stale(self, now: float) -> bool:
        return now - self.noted_at > STALE_AFTER_S

    def joined(self, earlier: _Fastest) -> _Fastest:
        step_s, largest = min(self.step_s, earlier.step_s), _larger(self.largest, earlier.largest)
        return _Fastest(step_s, largest, self.noted_at, self.num_samples)


_Class = tuple[int, int]


class StepTimes:
    """The fastest steps of each class of sizes, of this half of STALE_AFTER_S and the last.

    A class is a power of two of tokens, and a quarter of one of keys: what a token costs grows with its context.
    No number of slow steps says that a fast one is not possible; a machine that has become slower is believed when the
    fast ones are forgotten.

    Sizes speak for each other by one rule, which holds wherever the time is a fixed part and something for each token,
    pair and key: a step that does a share of each of them takes at least that share of the time, and one that does more
    no less. Nothing that was measured says nothing: the bound is then 0.
    """

    def __init__(self) -> None:
        self._latest: dict[_Class, _Fastest] = {}
        self._before: dict[_Class, _Fastest] = {}
        self._since = -math.inf
        """When the latest half began."""
        self._most_output_tokens = 1
        self._known: dict[_Class, _Fastest] = {}
        self._least: LeastTimes | None = None
        """What both halves say, and the bounds made of it; None once that is something else."""

    def note(self, step_s: float, size: StepSize, *, most_output_tokens: int, now: float) -> None:
        """most_output_tokens: what the luckiest request of the step was given; more than 1 with speculation."""
        if size.num_tokens < 1:
            return
        self._turn(now)
        name = size.num_tokens.bit_length(), _quarter_of_power(size.num_keys)
        if name not in self._latest:
            self._latest[name] = _Fastest(num_samples=self._before[name].num_samples if name in self._before else 0)
        self._latest[name].note(step_s, size, now=now)
        is_news = self._latest[name].is_news_to(self._known.get(name, _Fastest()))
        if is_news or most_output_tokens > self._most_output_tokens:
            self._least = None
        self._most_output_tokens = max(self._most_output_tokens, most_output_tokens)

    def least(self, now: float) -> LeastTimes:
        """The same object until it would say something else."""
        self._turn(now)
        if self._least is None:
            known = dict(self._before)
            for name, fastest in self._latest.items():
                known[name] = fastest.joined(known.get(name, _Fastest()))
            trusted = (fastest for fastest in known.values() if fastest.num_samples >= NUM_SAMPLES_TO_TRUST)
            self._known, self._least = known, LeastTimes(trusted, most_output_tokens=self._most_output_tokens)
        return self._least

    def _turn(self, now: float) -> None:
        if now - self._since > STALE_AFTER_S / 2:
            self._before, self._latest, self._since = self._before | self._latest, {}, now
            self._least = None
        if any(fastest.is_stale(now) for fastest in self._before.values()):
            self._before = {name: fastest for name, fastest in self._before.items() if not fastest.is_stale(now)}
            self._least = None


class LeastTimes:
    """What is known at one instant: many requests are held against it."""

    def __init__(self, trusted: Iterable[_Fastest], *, most_output_tokens: int) -> None:
        self._trusted, self._most_output_tokens = tuple(trusted), most_output_tokens
        self._step_s: dict[StepSize, float] = {}
        self._request_s: dict[tuple[int, int, int, int], float] = {}
        """Of what was asked: whoever waits asks before every step."""

    def step_s(self, size: StepSize) -> float:
        """No step of this size takes less, as far as was measured."""
        if (known_s := self._step_s.get(size)) is None:
            known_s = max((fastest.bound_s(size) for fastest in self._trusted), default=0.0)
            self._step_s[size] = known_s
        return known_s

    def request_s(
        self, *, num_computed_tokens: int, num_tokens: int, num_output_tokens: int, most_step_tokens: int
    ) -> float:
        """For a request that has the engine to itself, and num_tokens by now; its next token comes with the last step
        of those, each later one with a step of its own, which looks at one key more than the step before."""
        asked = num_computed_tokens, num_tokens, num_output_tokens, most_step_tokens
        if (known_s := self._request_s.get(asked)) is None:
            known_s = self._request_s[asked] = self._added_up_s(*asked)
        return known_s

    def _added_up_s(
        self, num_computed_tokens: int, num_tokens: int, num_output_tokens: int, most_step_tokens: int
    ) -> float:
        prompt_s = 0.0
        for start in range(num_computed_tokens, num_tokens, most_step_tokens):
            prompt_s += self.step_s(StepSize.of_chunk(start, min(most_step_tokens, num_tokens - start)))
        num_decode_steps = -(-max(0, num_output_tokens - 1) // self._most_output_tokens)
        decode_s = (
            num_steps * self.step_s(StepSize.of_chunk(start, 1))
            for start, num_steps in _stretches(num_tokens, num_tokens + num_decode_steps)
        )
        return prompt_s + sum(decode_s)


def _larger(one: StepSize, other: StepSize) -> StepSize:
    return StepSize(*map(max, one, other))


def _quarter_of_power(number: int) -> int:
    """Four classes from each power of two to the next: 4, 5, 6, 7; 8, 10, 12, 14; 16, ..."""
    num_cut_bits = max(0, number.bit_length() - 3)
    return 4 * num_cut_bits + (number >> num_cut_bits)


def _stretches(start: int, end: int) -> Iterator[tuple[int, int]]:
    """[start, end) cut where a class begins: where each part begins, and how long it is. Within one, what is true of
    its beginning bounds the rest."""
    while start < end:
        num_cut_bits = max(0, start.bit_length() - 3)
        next_class = ((start >> num_cut_bits) + 1) << num_cut_bits
        yield start, min(next_class, end) - start
        start = next_class
