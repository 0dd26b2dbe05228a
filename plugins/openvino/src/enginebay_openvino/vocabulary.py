"""The text of an output as its tokens come: never half a character."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

REPLACEMENT = "\ufffd"
_utf8_decoder = codecs.getincrementaldecoder("utf-8")

Decode = Callable[[Sequence[int]], str]


class TokenText(Protocol):
    """Of one output. What `push` returns adds up to the text of all tokens; a character that is not complete yet is
    kept back, and left out at an end that cuts it."""

    def push(self, token_id: int) -> str: ...


class BytesText:
    """For byte-level vocabularies: each token is a few bytes."""

    def __init__(self, pieces: Sequence[bytes], *, skipped_ids: Collection[int]) -> None:
        self._pieces, self._skipped_ids = pieces, skipped_ids
        self._utf8 = _utf8_decoder("replace")

    def push(self, token_id: int) -> str:
        is_text = token_id < len(self._pieces) and token_id not in self._skipped_ids
        return self._utf8.decode(self._pieces[token_id]) if is_text else ""


class DecodedText:
    """For any tokenizer: the difference that a token makes to the decoded text of the last few."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._token_ids: list[int] = []
        """[0, num_shown) are delivered, and only there so that blanks come out right; the rest is kept back."""
        self._num_shown = 0

    def push(self, token_id: int) -> str:
        self._token_ids.append(token_id)
        before = self._decode(self._token_ids[: self._num_shown]) if self._num_shown else ""
        text = self._decode(self._token_ids)
        if text.endswith(REPLACEMENT):
            return ""
        self._token_ids = self._token_ids[self._num_shown :]
        self._num_shown = len(self._token_ids)
        return text[len(before) :]
