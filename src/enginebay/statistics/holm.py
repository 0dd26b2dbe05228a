"""Many questions asked of one load test: chance finds something in twenty of them, unless each has to be surer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    is_rejected: bool
    level: float
    """What its p was held against: at most this for a rejection."""
    adjusted_p: float
    """Rejected exactly where this is at most the level of the whole family."""


def holm(p_values: Sequence[float], *, level: float) -> list[Tested]:
    """Holm's step-down procedure: any number of true hypotheses, however they depend, and at most `level` that one of
    them is rejected. In the order of `p_values`.

    The smallest p is held against level / n, the next against level / (n - 1), and so on up to the first that fails;
    it and all the larger ones stand. Source: Holm 1979, A simple sequentially rejective multiple test procedure.
    """
    tested: dict[int, Tested] = {}
    num_left, adjusted, is_open = len(p_values), 0.0, True
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda index: p_values[index])):
        is_open = is_open and p_values[index] <= level / num_left
        adjusted = max(adjusted, min(1.0, p_values[index] * (len(p_values) - rank)))
        tested[index] = Tested(is_rejected=is_open, level=level / num_left, adjusted_p=adjusted)
        num_left -= is_open and num_left > 1
    return [tested[index] for index in range(len(p_values))]
