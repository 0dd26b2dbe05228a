"""Answers of /tokenize and /chat_tokenize: tokens with the characters that they stand for."""

from __future__ import annotations

from enginebay.testing.simulators import tokens

JsonFields = dict[str, object]


def tokenized(text: str, *, adds_special_tokens: bool) -> list[JsonFields]:
    """A special token stands for no character. One that is a part of a character shows the whole of it."""
    found: list[JsonFields] = [_token(tokens.BEGIN_ID, "", 0)] if adds_special_tokens else []
    character_of_byte = [index for index, character in enumerate(text) for _ in character.encode()]
    begin = 0
    for token_id in tokens.encode(text):
        end = begin + len(tokens.piece(token_id))
        first, last = character_of_byte[begin], character_of_byte[end - 1]
        found.append(_token(token_id, text[first : last + 1], first))
        begin = end
    return found


def _token(token_id: int, text: str, start: int) -> JsonFields:
    return {"id": token_id, "text": text, "start": start, "stop": start + len(text)}
