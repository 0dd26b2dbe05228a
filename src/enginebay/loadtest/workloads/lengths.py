"""How long prompts and outputs are: distributions over whole numbers of tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from enginebay.errors import LoadTestError

MAX_DRAWS = 10_000
"""Of one length, until one lies inside the bounds."""


class Lengths(Protocol):
    def draw(self, rng: np.random.Generator) -> int: ...


@dataclass(frozen=True, slots=True)
class FixedLength:
    num_tokens: int

    def draw(self, rng: np.random.Generator) -> int:
        return self.num_tokens

    def __str__(self) -> str:
        return f"{self.num_tokens}"


@dataclass(frozen=True, slots=True)
class UniformLengths:
    """Both ends included."""

    min: int
    max: int

    def draw(self, rng: np.random.Generator) -> int:
        return int(rng.integers(self.min, self.max, endpoint=True))

    def __str__(self) -> str:
        return f"{self.min} to {self.max}"


@dataclass(frozen=True, slots=True, kw_only=True)
class NormalLengths:
    """mean and std of the distribution before it is cut at `min` and `max`: what lies outside is drawn again."""

    mean: float
    std: float
    min: int
    max: int

    def draw(self, rng: np.random.Generator) -> int:
        return _inside(self.min, self.max, lambda: rng.normal(self.mean, self.std))

    def __str__(self) -> str:
        return f"{self.mean:g} ± {self.std:g} ({self.min} to {self.max})"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogNormalLengths:
    """Many short ones and a long tail. mean and std are of the lengths themselves, before they are cut as above."""

    mean: float
    std: float
    min: int
    max: int

    def draw(self, rng: np.random.Generator) -> int:
        variance = math.log1p((self.std / self.mean) ** 2)
        location = math.log(self.mean) - variance / 2
        return _inside(self.min, self.max, lambda: rng.lognormal(location, math.sqrt(variance)))

    def __str__(self) -> str:
        return f"{self.mean:g} ± {self.std:g} ({self.min} to {self.max}), log-normal"


@dataclass(frozen=True, slots=True)
class EmpiricalLengths:
    """Each of `values` with equal probability: a value that occurs twice comes twice as often."""

    values: tuple[int, ...]

    def draw(self, rng: np.random.Generator) -> int:
        return self.values[int(rng.integers(len(self.values)))]

    def __str__(self) -> str:
        return f"{min(self.values)} to {max(self.values)} as in {len(self.values)} recorded lengths"


def _inside(lowest: int, highest: int, draw: Callable[[], float]) -> int:
    for _ in range(MAX_DRAWS):
        length = round(draw())
        if lowest <= length <= highest:
            return length
    raise LoadTestError(
        f"of {MAX_DRAWS} drawn lengths none lies from {lowest} to {highest}: move the mean or the bounds"
    )
