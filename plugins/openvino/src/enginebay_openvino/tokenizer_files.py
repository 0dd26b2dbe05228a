"""What the files beside a converted model tell: special tokens, context, and whether tokens are bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec


class _AddedToken(msgspec.Struct):
    id: int
    special: bool = False


class _TokenizerFile(msgspec.Struct):
    added_tokens: list[_AddedToken] = []
    decoder: dict[str, Any] | None = None


class _ModelConfig(msgspec.Struct):
    vocab_size: int | None = None
    max_position_embeddings: int | None = None


def model_config(directory: Path) -> _ModelConfig:
    return msgspec.json.decode((directory / "config.json").read_bytes(), type=_ModelConfig)


def byte_pieces(directory: Path, vocabulary: dict[bytes, int]) -> tuple[list[bytes], frozenset[int]] | None:
    """The bytes of every token and the ids of special ones; None where tokens are no plain bytes, or nobody knows."""
    try:
        file = msgspec.json.decode((directory / "tokenizer.json").read_bytes(), type=_TokenizerFile)
    except (OSError, msgspec.DecodeError):
        return None
    if file.decoder is None or file.decoder.get("type") != "ByteLevel" or not vocabulary:
        return None
    pieces = [b""] * (max(vocabulary.values()) + 1)
    for piece, token_id in vocabulary.items():
        pieces[token_id] = piece
    return pieces, frozenset(token.id for token in file.added_tokens if token.special)
