"""What proposes drafts."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from enginebay.engine.sequence import Sequence


@dataclass(slots=True)
class Draft:
    token_ids: list[int]
    """Empty where there is nothing to propose."""
    probabilities: Tensor | None = None
    """(num_drafts, vocab_size) float32, each row sums to 1: what each token was drawn from, knowing those before it.
    None: they were not drawn, but are a function of the tokens before them."""


@dataclass(frozen=True, slots=True)
class Wanted:
    sequence: Sequence
    """All its tokens but the newest are computed, and it owns the blocks of num_tokens more than it has."""
    num_tokens: int
    """At most, and at least 1."""


class Proposer(Protocol):
    def propose(self, wanted: Many[Wanted]) -> list[Draft]:
        """One for each, in order."""
        ...
