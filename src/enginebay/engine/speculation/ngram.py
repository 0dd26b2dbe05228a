"""Prompt lookup: what came after these tokens before may come after them again.

Source of the idea: Saxena 2023, "Prompt Lookup Decoding" (github.com/apoorvumang/prompt-lookup-decoding).
"""

from __future__ import annotations

from collections.abc import Sequence as Many

from enginebay.engine.speculation.proposer import Draft, Wanted

NGRAM_MIN = 3
"""Tokens that must have come before in this order. Two are found again in any text, and tell little."""
NGRAM_MAX = 8
"""Of two places that fit, the one that fits further back is taken, up to so many tokens."""
MAX_NUM_PLACES = 8
"""The latest places that are compared: what a step costs does not grow with the context."""


class NgramProposer:
    def __init__(self, *, ngram_min: int = NGRAM_MIN, ngram_max: int = NGRAM_MAX) -> None:
        self._ngram_min, self._ngram_max = ngram_min, ngram_max

    def propose(self, wanted: Many[Wanted]) -> list[Draft]:
        return [Draft(self._proposed(one)) for one in wanted]

    def _proposed(self, wanted: Wanted) -> list[int]:
        sequence = wanted.sequence
        if sequence.ngram_index is None:
            sequence.ngram_index = NgramIndex(sequence.token_ids, self._ngram_min)
        place = sequence.ngram_index.find(ngram_max=self._ngram_max)
        return [] if place is None else _continuation(sequence.token_ids, place, num_tokens=wanted.num_tokens)


class NgramIndex:
    """Where each n-gram of a sequence's tokens has been; it grows with them, and never looks at one twice."""

    def __init__(self, token_ids: list[int], ngram_min: int) -> None:
        """token_ids: the sequence's own list, which grows behind our back."""
        self._token_ids, self._ngram_min = token_ids, ngram_min
        self._latest: dict[tuple[int, ...], int] = {}
        """By n-gram, the place after it: of the token that came next."""
        self._earlier: list[int | None] = [None] * ngram_min
        """By place, the one before it with the same n-gram."""

    def find(self, *, ngram_max: int) -> int | None:
        """The place after the longest n-gram that the tokens end with and that has been before; the latest of equals.

        None where the last ngram_min tokens have not been before.
        """
        self._take_in()
        best, best_length = None, 0
        place = self._latest.get(tuple(self._token_ids[-self._ngram_min :]))
        for _ in range(MAX_NUM_PLACES):
            if place is None:
                break
            length = self._common_length(place, ngram_max)
            if length > best_length:
                best, best_length = place, length
            if length == ngram_max:
                break
            place = self._earlier[place]
        return best

    def _take_in(self) -> None:
        """Every n-gram that has a token after it by now."""
        token_ids, latest = self._token_ids, self._latest
        for place in range(len(self._earlier), len(token_ids)):
            ngram = tuple(token_ids[place - self._ngram_min : place])
            self._earlier.append(latest.get(ngram))
            latest[ngram] = place

    def _common_length(self, place: int, ngram_max: int) -> int:
        """How many tokens before the place are those that the sequence ends with."""
        token_ids, end = self._token_ids, len(self._token_ids)
        length = self._ngram_min
        while length < min(ngram_max, place) and token_ids[place - length - 1] == token_ids[end - length - 1]:
            length += 1
        return length


def _continuation(token_ids: list[int], place: int, *, num_tokens: int) -> list[int]:
    """What came after; where that reaches the end, the text repeats itself, and is taken to go on so."""
    period = token_ids[place:]
    if len(period) >= num_tokens:
        return period[:num_tokens]
    return [period[index % len(period)] for index in range(num_tokens)]
