"""Sampling noise as a pure function of (seed, position): the same on every device, row and batch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
MASK_64 = 2**64 - 1

# Each use of noise at a position has a stream of its own: its constant is combined with the seed.
TOKENS = np.uint64(0)
DRAFTS = np.uint64(0x5851F42D4C957F2D)
ACCEPTANCE = np.uint64(0x14057B7EF767814F)


def uniform_noise(
    seeds: NDArray[np.uint64], positions: NDArray[np.uint64], stream: np.uint64 = TOKENS
) -> NDArray[np.float64]:
    """One number in (0, 1) for each pair: the upper 53 bits of splitmix64(splitmix64(seed) + position).

    `position` is the number of output tokens before the one that is drawn.
    Source of splitmix64: Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators".
    """
    bits = splitmix64(splitmix64(seeds ^ stream) + positions)
    return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def splitmix64(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Arithmetic wraps at 64 bits."""
    mixed = state + GOLDEN_GAMMA
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
