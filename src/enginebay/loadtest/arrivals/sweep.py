"""A sweep: one load for each of several rates, from light to heavy."""

from __future__ import annotations

from typing import Literal

Spacing = Literal["linear", "geometric"]


def sweep_rates(lowest: float, highest: float, *, num_rates: int, spacing: Spacing = "linear") -> tuple[float, ...]:
    """Both ends included. Geometric: each is the same number of times the one before."""
    if num_rates == 1:
        return (lowest,)
    fractions = [index / (num_rates - 1) for index in range(num_rates)]
    if spacing == "geometric":
        return tuple(lowest ** (1 - fraction) * highest**fraction for fraction in fractions)
    return tuple(lowest * (1 - fraction) + highest * fraction for fraction in fractions)
