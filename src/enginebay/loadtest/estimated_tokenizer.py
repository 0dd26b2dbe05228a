"""Lengths without the model's tokenizer: pieces of words, a rule of thumb that is within a third for English text.

For a server whose tokenizer nobody has at hand. What a prompt really was, its usage tells afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from enginebay.loadtest.plan import PlannedMessage

PIECE = re.compile(r"\s?\w{1,6}|\s?[^\w\s]|\s")
"""At most six letters with the space before them, as byte-pair tokens of English mostly are."""


class EstimatedTokenizer:
    """Cuts text like a tokenizer, without a vocabulary: a piece gets a number when it is first seen."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._pieces: list[str] = []

    def encode(self, text: str) -> list[int]:
        return [self._number(piece) for piece in PIECE.findall(text)]

    def encode_plain(self, text: str) -> list[int]:
        return self.encode(text)

    def encode_messages(self, messages: Sequence[PlannedMessage]) -> list[int]:
        """Without what a template adds, which nobody knows here."""
        return self.encode("\n".join(message.content for message in messages))

    def cut(self, text: str, num_tokens: int) -> str:
        return "".join(PIECE.findall(text)[:num_tokens])

    def beginning(self, word: str) -> str:
        return PIECE.findall(word)[0]

    def decode(self, token_ids: list[int]) -> str:
        return "".join(self._pieces[number] for number in token_ids)

    def _number(self, piece: str) -> int:
        if piece not in self._numbers:
            self._numbers[piece] = len(self._pieces)
            self._pieces.append(piece)
        return self._numbers[piece]
