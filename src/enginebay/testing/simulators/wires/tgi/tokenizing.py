"""Answers of /tokenize and /chat_tokenize: tokens with the characters that they stand for."""

from __future__ import annotations

from enginebay.testing.simulators.vocabulary import Vocabulary

JsonFields = dict[str, object]


def tokenized(text: str, vocabulary: Vocabulary, *, adds_special_tokens: bool) -> list[JsonFields]:
    """A special token stands for no character. One that is a part of a character shows the whole of it."""
    special = vocabulary.special_ids() if adds_special_tokens else ()
    found = [_token(token_id, "", 0) for token_id in special]
    return found + [_token(each.token_id, text[each.begin : each.end], each.begin) for each in vocabulary.spans(text)]


def _token(token_id: int, text: str, start: int) -> JsonFields:
    return {"id": token_id, "text": text, "start": start, "stop": start + len(text)}
