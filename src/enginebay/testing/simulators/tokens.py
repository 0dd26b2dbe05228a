"""A tokenizer and a language of its own: stable ids, and texts that follow from the tokens before them alone.

Ids: 0 `<pad>`, 1 `<s>` (begin), 2 `</s>` (end), 3 to 258 the single bytes, from 259 the pieces: common words with
their leading space, and parts of words whose characters are split between two or three tokens.
A text is cut into pieces where it has them and into single bytes elsewhere, so that decode(encode(text)) == text.

The next token is a function of all tokens before it (and of the seed): a continuation that is computed from the
prompt and half of the answer is the other half.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from functools import lru_cache

PAD_ID, BEGIN_ID, END_ID = 0, 1, 2
SPECIAL_TEXTS = {PAD_ID: "<pad>", BEGIN_ID: "<s>", END_ID: "</s>"}
_FIRST_BYTE_ID = 3
_FIRST_PIECE_ID = _FIRST_BYTE_ID + 256
_WORD_TEXT = (
    "the of and to in is you that it he was for on are as with his they at be this have from or one had by "
    "word but not what all were we when your can said there use an each which she do how their if will up "
    "other about out many then them these so some her would make like him into time has look two more write go "
    "see number no way could people my than first water been call who oil its now find long down day did get "
    "come made may part over new sound take only little work know place year live me back give most very after "
    "thing our just name good sentence man think say great where help through much before line right too mean "
    "old any same tell boy follow came want show also around form three small set put end does another well "
    "large must big even such because turn here why ask went men read need land different home us move try "
    "kind hand picture again change off play spell air away animal house point page letter mother answer found "
    "study still learn should world quick brown fox jumps lazy dog engine token batch model cache queue stream"
)
_WORDS = tuple(_WORD_TEXT.split())
_SPLIT_WORDS = (
    (" caf\xe9".encode()[:5], b"\xa9"),
    (" na\xefve".encode()[:4], b"\xafve"),
    (b" \xf0\x9f", b"\x98", b"\x80"),
    (" 你".encode()[:3], "你".encode()[2:] + "好".encode()[:1], "好".encode()[1:]),
    (" Zürich".encode()[:3], "ürich".encode()[1:]),
)
_PUNCTUATION = (b".", b",", b"!", b"?", b"\n")


def _all_pieces() -> tuple[bytes, ...]:
    words = [f" {word}".encode() for word in _WORDS]
    bare = [word.encode() for word in _WORDS]
    split = [part for parts in _SPLIT_WORDS for part in parts]
    return (*words, *split, *_PUNCTUATION, *bare)


_PIECES = _all_pieces()
VOCABULARY_SIZE = _FIRST_PIECE_ID + len(_PIECES)
_BYTES_OF = (b"", b"", b"", *(bytes([value]) for value in range(256)), *_PIECES)
_ID_OF_TEXT = {
    piece.decode(): _FIRST_PIECE_ID + index
    for index, piece in reversed(list(enumerate(_PIECES)))
    if piece.isascii()
}  # fmt: skip
_NUM_WORDS = len(_WORDS)


def _piece_ids(parts: tuple[bytes, ...], begin: int) -> tuple[int, ...]:
    return tuple(range(begin, begin + len(parts)))


def _split_ids() -> tuple[tuple[int, ...], ...]:
    begin = _FIRST_PIECE_ID + _NUM_WORDS
    ids: list[tuple[int, ...]] = []
    for parts in _SPLIT_WORDS:
        ids.append(_piece_ids(parts, begin))
        begin += len(parts)
    return tuple(ids)


_SPLIT_IDS = _split_ids()
_SUCCESSORS = {ids[index]: ids[index + 1] for ids in _SPLIT_IDS for index in range(len(ids) - 1)}
_FIRST_PUNCTUATION_ID = _SPLIT_IDS[-1][-1] + 1
_OUTPUT_IDS = (
    *range(_FIRST_PIECE_ID, _FIRST_PIECE_ID + _NUM_WORDS),
    *(ids[0] for ids in _SPLIT_IDS for _ in range(3)),
    *(_FIRST_PUNCTUATION_ID + index for index in range(len(_PUNCTUATION)) for _ in range(3)),
)
_DISTINCT_IDS = tuple(dict.fromkeys(_OUTPUT_IDS))
_POSITION_OF = {token_id: position for position, token_id in enumerate(_DISTINCT_IDS)}
NUM_RANKS = len(_DISTINCT_IDS)
UNLIKELY = -30.0
"""The log-probability of what has no rank."""
_MASK = (1 << 64) - 1
_PIECE = re.compile(r" ?[A-Za-z]+|[^A-Za-z]", re.DOTALL)


def piece(token_id: int) -> bytes:
    """The bytes of one token: none for the special ones, ` <id>` for ids of another tokenizer."""
    if 0 <= token_id < VOCABULARY_SIZE:
        return _BYTES_OF[token_id]
    return b" <%d>" % token_id


def token_text(token_id: int) -> str:
    """One token alone as text, as engines show it beside its log-probability."""
    special = SPECIAL_TEXTS.get(token_id)
    return special if special is not None else piece(token_id).decode("utf-8", "replace")


@lru_cache(maxsize=4096)
def encode(text: str) -> tuple[int, ...]:
    ids: list[int] = []
    for part in _PIECE.findall(text):
        known = _ID_OF_TEXT.get(part)
        if known is not None:
            ids.append(known)
        else:
            ids.extend(_FIRST_BYTE_ID + value for value in part.encode("utf-8", "surrogatepass"))
    return tuple(ids)


def decode(token_ids: Iterable[int]) -> str:
    return b"".join(map(piece, token_ids)).decode("utf-8", "replace")


@lru_cache(maxsize=4096)
def state_after(token_ids: tuple[int, ...]) -> int:
    """What the next token follows from; cached, since load tests repeat their prompts."""
    state = 0x9E3779B97F4A7C15
    for token_id in token_ids:
        state = next_state(state, token_id)
    return state


def next_state(state: int, token_id: int) -> int:
    return ((state ^ token_id) * 0x5851F42D4C957F2D + 0x14057B7EF767814F) & _MASK


def next_token(state: int, last_token_id: int | None) -> int:
    """The likeliest."""
    if last_token_id is not None and last_token_id in _SUCCESSORS:
        return _SUCCESSORS[last_token_id]
    return _OUTPUT_IDS[(state >> 33) % len(_OUTPUT_IDS)]


def is_inside_character(last_token_id: int | None) -> bool:
    """The next token must complete what this one began."""
    return last_token_id in _SUCCESSORS


def candidate(state: int, best: int, rank: int) -> int:
    """The token of a rank; `best` has rank 0."""
    if rank == 0:
        return best
    return _DISTINCT_IDS[(_POSITION_OF.get(best, state >> 33) + rank) % NUM_RANKS]


def decay(state: int) -> float:
    """The logarithm of the factor between the probabilities of one rank and the next: from 0.5 to 1.5."""
    return 0.5 + (state >> 24) % 1000 / 1000


def logprob(state: int, rank: int | None) -> float:
    """Of the token of this rank: all ranks together have a probability of 1. None: one that is hardly ever drawn."""
    if rank is None:
        return UNLIKELY
    falls_by = decay(state)
    return math.log(-math.expm1(-falls_by)) - falls_by * rank


def alternatives(state: int, best: int, num: int) -> list[tuple[int, float]]:
    """The `num` likeliest tokens with their log-probabilities, the likeliest first."""
    return [(candidate(state, best, rank), logprob(state, rank)) for rank in range(min(num, NUM_RANKS))]


def prompt_logprob(token_id: int) -> float:
    return -0.01 - (token_id * 2654435761 >> 8 & 1023) / 256
