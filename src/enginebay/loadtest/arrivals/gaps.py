"""Gaps between arrivals, endless, with mean 1: a rate turns them into seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

BLOCK = 4096
"""Gaps drawn at a time. A longer schedule of one seed begins with the shorter one."""


def exponential_gaps(rng: np.random.Generator) -> Iterator[float]:
    """Of a Poisson process."""
    return _endless(lambda: rng.exponential(size=BLOCK))


def gamma_gaps(rng: np.random.Generator, *, burstiness: float) -> Iterator[float]:
    """burstiness: the distribution's shape; the variance of the gaps is 1 / burstiness."""
    return _endless(lambda: rng.gamma(burstiness, 1 / burstiness, size=BLOCK))


def _endless(block: Callable[[], NDArray[np.float64]]) -> Iterator[float]:
    while True:
        yield from block().tolist()
