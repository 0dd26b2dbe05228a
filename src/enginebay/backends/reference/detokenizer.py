"""Token ids to text, token by token, never half a character."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from enginebay.backends.reference.token_bytes import TokenBytes

_utf8_decoder = codecs.getincrementaldecoder("utf-8")


class Detokenizer:
    """The text of one stream: the pieces that `push` returns add up to the text of all tokens.

    Bytes of a character that is not complete yet are kept back; at the end of an output that was cut there they are
    left out, so that a stream that resumes it sends the character whole. Bytes that can't become a character any
    more are U+FFFD, as in a decode of the whole. (One difference: of a malformed run of byte-fallback tokens a decode
    of the whole gives up every byte; here the characters before the flaw are already delivered.)
    """

    __slots__ = ("_bytes", "_has_started", "_num_leading_spaces", "_skip_special_tokens", "_utf8")

    def __init__(
        self, token_bytes: TokenBytes, *, skip_special_tokens: bool, prompt_token_ids: Sequence[int] = ()
    ) -> None:
        """prompt_token_ids: what the output goes on from. Behind a text, a first blank is the output's own."""
        self._bytes = token_bytes
        self._skip_special_tokens = skip_special_tokens
        self._has_started = any(self._piece(token_id) for token_id in prompt_token_ids)
        self._num_leading_spaces = 0 if self._has_started else token_bytes.num_leading_spaces
        self._utf8 = _utf8_decoder("replace")

    def push(self, token_id: int) -> str:
        piece = self._piece(token_id)
        if piece and not self._has_started:
            self._has_started = True
            piece = self._bytes.first_piece(token_id)
        return self._without_leading_spaces(self._utf8.decode(piece))

    def _piece(self, token_id: int) -> bytes:
        is_skipped = self._skip_special_tokens and token_id in self._bytes.special_ids
        return b"" if is_skipped else self._bytes.piece(token_id)

    def _without_leading_spaces(self, text: str) -> str:
        while self._num_leading_spaces and text:
            if text[0] != " ":
                self._num_leading_spaces = 0
            else:
                text = text[1:]
                self._num_leading_spaces -= 1
        return text
