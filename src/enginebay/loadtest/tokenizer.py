"""What counts tokens: for exact prompt lengths before a run, and for a second count of the output after it.

The tokenizer's file is here; `server_tokenizer` asks a running server, `estimated_tokenizer` is a rule of thumb.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tokenizers import Tokenizer

from enginebay.errors import InvalidRequest, LoadTestError
from enginebay.loadtest.plan import PlannedMessage
from enginebay.types import Chat, Message

if TYPE_CHECKING:
    from enginebay.backends.reference.tokenizer import ModelTokenizer


class PromptTokenizer(Protocol):
    """Enough to write prompts with."""

    def encode(self, text: str) -> list[int]:
        """As the engine encodes a raw prompt: special tokens included."""
        ...

    def encode_plain(self, text: str) -> list[int]:
        """Without special tokens."""
        ...

    def encode_messages(self, messages: Sequence[PlannedMessage]) -> list[int]:
        """What the model's chat template makes of them, up to where the answer begins. Raises LoadTestError."""
        ...

    def cut(self, text: str, num_tokens: int) -> str:
        """The beginning of `text` that has `num_tokens` without special tokens, as nearly as one cut can have it."""
        ...

    def beginning(self, word: str) -> object:
        """Equal for words that a prefix cache may not tell apart by their first token. Costs little."""
        ...


class TextTokenizer(PromptTokenizer, Protocol):
    """Enough to look at outputs with, too."""

    def decode(self, token_ids: list[int]) -> str: ...


class FileTokenizer:
    """`tokenizer.json` of a model directory."""

    def __init__(self, model_dir: Path) -> None:
        path = model_dir / "tokenizer.json"
        if not path.is_file():
            raise LoadTestError(f"{path} does not exist: exact prompt lengths need the model's fast tokenizer")
        self._model_dir = model_dir
        self._tokenizer = Tokenizer.from_file(str(path))
        # A tokenizer.json may carry the truncation and padding of a training run.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text).ids

    def encode_plain(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode_messages(self, messages: Sequence[PlannedMessage]) -> list[int]:
        chat = Chat(tuple(Message(message.role, message.content) for message in messages))
        from enginebay.backends.reference.prompts import prompt_token_ids

        try:
            return prompt_token_ids(chat, self._with_template)
        except InvalidRequest as error:
            raise LoadTestError(f"{self._model_dir}: {error}") from error

    def cut(self, text: str, num_tokens: int) -> str:
        return self.decode(self.encode_plain(text)[:num_tokens])

    def beginning(self, word: str) -> int:
        return self.encode_plain(word)[0]

    @cached_property
    def _with_template(self) -> ModelTokenizer:
        # Here, since templates need a package that the rest does not: the one of the engines' extra.
        from enginebay.backends.reference.tokenizer import ModelTokenizer

        return ModelTokenizer.from_directory(self._model_dir)

    def decode(self, token_ids: list[int]) -> str:
        return self._tokenizer.decode(token_ids)
