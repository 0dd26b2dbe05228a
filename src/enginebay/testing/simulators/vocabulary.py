"""How a simulated engine reads texts: by words of its own, or by the tokenizer of the model that it was launched with.

Answers are made up of the own words, whoever read the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from enginebay.errors import ModelError, UnsupportedModel
from enginebay.testing.simulators import tokens

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class Span(NamedTuple):
    token_id: int
    begin: int
    """In characters of the text."""
    end: int


class Vocabulary(Protocol):
    size: int

    def encode(self, text: str, *, adds_special_tokens: bool) -> tuple[int, ...]: ...

    def special_ids(self) -> tuple[int, ...]:
        """Those that are put before a text."""
        ...

    def spans(self, text: str) -> list[Span]:
        """Without special tokens. One that is a part of a character has the whole of it."""
        ...

    def decode(self, token_ids: Sequence[int]) -> str: ...

    def token_text(self, token_id: int) -> str: ...


class OwnVocabulary:
    size = tokens.VOCABULARY_SIZE

    def encode(self, text: str, *, adds_special_tokens: bool) -> tuple[int, ...]:
        return (*self.special_ids(), *tokens.encode(text)) if adds_special_tokens else tokens.encode(text)

    def special_ids(self) -> tuple[int, ...]:
        return (tokens.BEGIN_ID,)

    def spans(self, text: str) -> list[Span]:
        character_of_byte = [index for index, character in enumerate(text) for _ in character.encode()]
        found: list[Span] = []
        begin = 0
        for token_id in tokens.encode(text):
            end = begin + len(tokens.piece(token_id))
            found.append(Span(token_id, character_of_byte[begin], character_of_byte[end - 1] + 1))
            begin = end
        return found

    def decode(self, token_ids: Sequence[int]) -> str:
        return tokens.decode(token_ids)

    def token_text(self, token_id: int) -> str:
        return tokens.token_text(token_id)


OWN_VOCABULARY = OwnVocabulary()


class ModelVocabulary:
    """Of a model's tokenizer. Ids are the model's: they tell nothing of the words that answers are made of."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.size = max(tokens.VOCABULARY_SIZE, tokenizer.get_vocab_size())

    def encode(self, text: str, *, adds_special_tokens: bool) -> tuple[int, ...]:
        return tuple(self._tokenizer.encode(text, add_special_tokens=adds_special_tokens).ids)

    def special_ids(self) -> tuple[int, ...]:
        return self.encode("", adds_special_tokens=True)

    def spans(self, text: str) -> list[Span]:
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return [Span(each, *offsets) for each, offsets in zip(encoding.ids, encoding.offsets, strict=True)]

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False)

    def token_text(self, token_id: int) -> str:
        return self.decode([token_id])


def vocabulary_of(place: object) -> Vocabulary:
    """The model's, where its place is a directory with a tokenizer.json or a GGUF file that can be read; else our own.

    place: as a command line names the model or its tokenizer.
    """
    path = Path(str(place)).expanduser()
    try:
        if (path / "tokenizer.json").is_file():
            return ModelVocabulary(_tokenizer_in(path / "tokenizer.json"))
        if path.suffix == ".gguf" and path.is_file():
            return ModelVocabulary(_tokenizer_of_gguf(path))
    except (ModelError, ImportError):
        pass  # a simulator needs no model: what it cannot read it does without
    return OWN_VOCABULARY


def _tokenizer_in(file: Path) -> Tokenizer:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exception
        raise UnsupportedModel(f"{file} cannot be read: {error}") from error


def _tokenizer_of_gguf(file: Path) -> Tokenizer:
    from enginebay.models.gguf_file import GgufFile
    from enginebay.models.gguf_tokenizer import build_tokenizer

    return build_tokenizer(GgufFile(file))
