"""The target's tokenizer, for exact prompt lengths before a run and for a second count of the output after it."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tokenizers import Tokenizer

from enginebay.errors import LoadTestError


class TextTokenizer(Protocol):
    def encode(self, text: str) -> list[int]:
        """As the engine encodes a raw prompt: special tokens included."""
        ...

    def encode_plain(self, text: str) -> list[int]:
        """Without special tokens."""
        ...

    def decode(self, token_ids: list[int]) -> str: ...


class FileTokenizer:
    """`tokenizer.json` of a model directory."""

    def __init__(self, model_dir: Path) -> None:
        path = model_dir / "tokenizer.json"
        if not path.is_file():
            raise LoadTestError(f"{path} does not exist: exact prompt lengths need the model's fast tokenizer")
        self._tokenizer = Tokenizer.from_file(str(path))

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    def encode_plain(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids)
