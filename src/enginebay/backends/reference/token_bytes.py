"""The bytes that each token stands for, from the decoder that `tokenizer.json` names.

Decoding is then appending bytes, which needs no window over earlier tokens: the cost of a token does not depend on
how many came before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from enginebay.errors import UnsupportedModel

DecoderConfig = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class TokenBytes:
    """`pieces[token_id]` is what a token adds to the text; the first token of a text may lose its leading blanks."""

    pieces: Sequence[bytes]
    first_pieces: Sequence[bytes]
    """What a token adds when it comes first (Metaspace drops the mark of a word's start there)."""
    num_leading_spaces: int
    """At most so many blanks are dropped from the start of the text."""
    special_ids: frozenset[int]

    def text(self, token_id: int) -> str:
        """One token by itself, for logprobs; half a character becomes U+FFFD."""
        return self.piece(token_id).decode("utf-8", "replace")

    def piece(self, token_id: int) -> bytes:
        """b"" for the padding rows of a vocabulary, which stand for nothing."""
        return self.pieces[token_id] if token_id < len(self.pieces) else b""

    def first_piece(self, token_id: int) -> bytes:
        return self.first_pieces[token_id] if token_id < len(self.first_pieces) else b""


def token_bytes(
    vocabulary: Mapping[str, int], special_tokens: frozenset[str], decoder: DecoderConfig | None
) -> TokenBytes:
    """vocabulary: token -> id, added tokens included; decoder: that of `tokenizer.json`. Raises UnsupportedModel."""
    steps = _steps(decoder)
    kinds = [str(step["type"]) for step in steps]
    if kinds == ["ByteLevel"]:
        return _table(vocabulary, special_tokens, _byte_level)
    if kinds == ["Metaspace"]:
        return _metaspace(vocabulary, special_tokens, steps[0])
    if kinds and set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip"}:
        return _byte_fallback(vocabulary, special_tokens, steps)
    raise UnsupportedModel(
        f"the tokenizer's decoder is {' + '.join(kinds) or 'missing'}; known are ByteLevel, Metaspace and "
        "Replace + ByteFallback + Fuse + Strip"
    )


def _steps(decoder: DecoderConfig | None) -> list[DecoderConfig]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        decoders = decoder["decoders"]
        assert isinstance(decoders, list)
        return [step for inner in decoders for step in _steps(inner)]
    return [decoder]


def _table(
    vocabulary: Mapping[str, int],
    special_tokens: frozenset[str],
    piece_of: Callable[[str], bytes],
    *,
    first_piece_of: Callable[[str], bytes] | None = None,
    num_leading_spaces: int = 0,
) -> TokenBytes:
    pieces = [b""] * (max(vocabulary.values(), default=-1) + 1)
    for token, token_id in vocabulary.items():
        pieces[token_id] = piece_of(token)
    first_pieces = pieces
    if first_piece_of is not None:
        first_pieces = list(pieces)
        for token, token_id in vocabulary.items():
            first_pieces[token_id] = first_piece_of(token)
    special_ids = frozenset(vocabulary[token] for token in special_tokens)
    return TokenBytes(pieces, first_pieces, num_leading_spaces, special_ids)


def _byte_level(token: str) -> bytes:
    """A token with any character outside the byte alphabet (an added token with a blank in it) stands for itself."""
    alphabet = _byte_alphabet()
    try:
        return bytes([alphabet[character] for character in token])
    except KeyError:
        return token.encode()


@cache
def _byte_alphabet() -> Mapping[str, int]:
    """GPT-2's printable stand-ins: printable bytes are themselves, the others follow from U+0100 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in printable]
    alphabet.update({chr(256 + offset): byte for offset, byte in enumerate(others)})
    return alphabet


def _metaspace(vocabulary: Mapping[str, int], special_tokens: frozenset[str], step: DecoderConfig) -> TokenBytes:
    mark = str(step.get("replacement", "▁"))
    drops_first = step.get("prepend_scheme", "always") != "never"
    return _table(
        vocabulary,
        special_tokens,
        lambda token: token.replace(mark, " ").encode(),
        first_piece_of=(lambda token: token.replace(mark, "").encode()) if drops_first else None,
    )


def _byte_fallback(
    vocabulary: Mapping[str, int], special_tokens: frozenset[str], steps: Sequence[DecoderConfig]
) -> TokenBytes:
    replacements: list[tuple[str, str]] = []
    num_leading_spaces = 0
    has_bytes = False
    for step in steps:
        match step:
            case {"type": "Replace", "pattern": {"String": str(pattern)}, "content": str(content)}:
                replacements.append((pattern, content))
            case {"type": "ByteFallback"}:
                has_bytes = True
            case {"type": "Fuse"}:
                pass
            case {"type": "Strip", "content": " ", "start": int(start), "stop": 0}:
                num_leading_spaces = start
            case _:
                raise UnsupportedModel(f"the tokenizer's decoder has a step that is not known here: {dict(step)}")

    def piece(token: str) -> bytes:
        for pattern, content in replacements:
            token = token.replace(pattern, content)
        byte = _fallback_byte(token) if has_bytes else None
        return token.encode() if byte is None else byte

    return _table(vocabulary, special_tokens, piece, num_leading_spaces=num_leading_spaces)


def _fallback_byte(token: str) -> bytes | None:
    """`<0xE2>` is the byte 0xE2."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes.fromhex(token[3:5])
        except ValueError:
            return None
    return None
