"""Where two answers to one prompt differ first, and how sure either engine was there."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from enginebay.loadtest.answers import Answer
from enginebay.types import TokenAlternative, TokenLogprob

END = "(end of the answer)"


class Parting(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What comes after it continues another text, so nothing after it is compared."""

    index: int
    """Of the planned request."""
    position: int
    """Of the first unit that differs, from 0: that many are equal."""
    first: str
    second: str
    """What either engine said there."""
    first_gap: float | None = None
    """Log-probability of the first engine's own token less that of the other's, by the first engine's own reckoning."""
    second_gap: float | None = None
    is_lower_limit: bool = False
    """The other's token was not even among the alternatives told: the gaps are at least this."""

    @property
    def difference(self) -> float | None:
        """By how much the engines disagree on the log-ratio of the two tokens: rounding has to explain this much."""
        if self.first_gap is None or self.second_gap is None:
            return None
        return self.first_gap + self.second_gap


def num_shared(one: Sequence[object], other: Sequence[object]) -> int:
    """Length of the beginning that both share."""
    pairs = zip(one, other, strict=False)
    return next((position for position, (left, right) in enumerate(pairs) if left != right), min(len(one), len(other)))


def gaps_at(one: Answer, other: Answer, position: int) -> tuple[float | None, float | None, bool]:
    """Of either engine at a parting in tokens, and whether one of them is a lower limit."""
    if not _has_logprob(one, position) or not _has_logprob(other, position):
        return None, None, False
    left, right = (one.logprobs or ())[position], (other.logprobs or ())[position]
    (first, first_is_limit), (second, second_is_limit) = _gap(left, right), _gap(right, left)
    return first, second, first_is_limit or second_is_limit


def _gap(own: TokenLogprob, rival: TokenLogprob) -> tuple[float | None, bool]:
    """(by how much an engine prefers its own token, whether it is at least that)."""
    for alternative in own.alternatives:
        if _is_same(alternative, rival):
            return own.logprob - alternative.logprob, False
    if not own.alternatives:
        return None, False
    return own.logprob - min(alternative.logprob for alternative in own.alternatives), True


def _is_same(alternative: TokenAlternative, token: TokenLogprob) -> bool:
    """By id where both have one: over HTTP most engines tell the alternatives as text alone."""
    if alternative.token_id is None or token.token_id is None:
        return alternative.token == token.token
    return alternative.token_id == token.token_id


def _has_logprob(answer: Answer, position: int) -> bool:
    return answer.logprobs is not None and position < len(answer.logprobs)
