"""The load of replicas, compared."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from enginebay.gateway.routing.policy import CandidateT


def least_loaded(candidates: Sequence[CandidateT], rng: Random) -> CandidateT:
    """Equals are drawn by weight, so that the first of the config is no favourite."""
    lowest = min(candidate.load for candidate in candidates)
    equals = [candidate for candidate in candidates if candidate.load == lowest]
    return equals[0] if len(equals) == 1 else drawn(equals, rng)


def drawn(candidates: Sequence[CandidateT], rng: Random) -> CandidateT:
    """By weight."""
    point = rng.random() * sum(candidate.weight for candidate in candidates)
    for candidate in candidates:
        point -= candidate.weight
        if point < 0:
            return candidate
    return candidates[-1]


def mean_load(candidates: Sequence[CandidateT], *, num_more: int = 0) -> float:
    """Requests for each unit of weight. num_more: as if so many were added."""
    num_in_flight = sum(candidate.num_in_flight for candidate in candidates)
    return (num_in_flight + num_more) / sum(candidate.weight for candidate in candidates)
