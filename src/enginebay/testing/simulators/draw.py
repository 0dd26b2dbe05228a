"""How the simulated model chooses a token: by probabilities that it also tells.

In each state the tokens are ranked; each is less probable than the one before by a factor that the state decides.
So ranks are geometrically distributed, temperature scales the factor, and what top_k, top_p and min_p leave is a
number of ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from enginebay.testing.simulators import tokens

_MASK = (1 << 64) - 1
_NUM_BIASED_RANKS = 64
"""Of so many ranks a bias may make another choice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Neutral values leave all tokens."""

    top_k: int = 0
    """0 and below: all."""
    top_p: float = 1.0
    min_p: float = 0.0
    logit_bias: Mapping[int, float] | None = None

    def num_kept(self, decay: float) -> int:
        """How many ranks are left, at least one."""
        kept = tokens.NUM_RANKS
        if self.top_k > 0:
            kept = min(kept, self.top_k)
        if self.top_p < 1:
            kept = min(kept, math.ceil(-math.log1p(-max(self.top_p, 0.0)) / decay))
        if self.min_p > 0:
            kept = min(kept, 1 + math.floor(-math.log(min(self.min_p, 1.0)) / decay))
        return max(1, kept)


NO_FILTERS = Filters()


def choose_rank(state: int, noise: int, *, temperature: float, filters: Filters) -> int:
    """noise: of the seed. A temperature of 0 takes the likeliest."""
    if temperature <= 0:
        return 0
    decay = tokens.decay(state) / temperature
    num_kept = filters.num_kept(decay)
    rank = -math.log1p(-_uniform(state, noise) * -math.expm1(-decay * num_kept)) / decay
    return min(int(rank), num_kept - 1)


def choose_biased(
    state: int, best: int, noise: int, *, temperature: float, filters: Filters, is_fixed: bool
) -> tuple[int, int | None]:
    """(token id, its rank or None where only the bias brought it in). is_fixed: without a bias `best` has no rival."""
    ranked = [(tokens.candidate(state, best, rank), rank) for rank in range(_NUM_BIASED_RANKS)]
    bias = filters.logit_bias or {}
    known = {token_id for token_id, _ in ranked}
    scores = [
        (tokens.logprob(state, rank) - (20 * rank if is_fixed else 0), token_id, rank) for token_id, rank in ranked
    ]
    scores += [(tokens.UNLIKELY, token_id, None) for token_id in bias if token_id not in known]
    biased = sorted(
        ((score + bias.get(token_id, 0.0), token_id, rank) for score, token_id, rank in scores),
        key=lambda entry: -entry[0],
    )
    if temperature <= 0:
        return biased[0][1:]
    weights = _weights([score / temperature for score, _, _ in biased], filters)
    left = _uniform(state, noise) * sum(weights)
    for weight, entry in zip(weights, biased, strict=False):
        left -= weight
        if left < 0:
            return entry[1:]
    return biased[0][1:]


def _weights(scores: list[float], filters: Filters) -> list[float]:
    """Of the tokens that the filters leave; the scores fall."""
    weights = [math.exp(score - scores[0]) for score in scores]
    num_kept = filters.top_k if filters.top_k > 0 else len(weights)
    total, wanted, gathered = sum(weights), filters.top_p, 0.0
    kept: list[float] = []
    for weight in weights[:num_kept]:
        if kept and (gathered >= wanted * total or weight < filters.min_p):
            break
        kept.append(weight)
        gathered += weight
    return kept


def _uniform(state: int, noise: int) -> float:
    """From 0 to below 1, of the tokens so far and the seed."""
    mixed = (state ^ (noise * 0x9E3779B97F4A7C15)) & _MASK
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((mixed ^ (mixed >> 31)) >> 11) / (1 << 53)
