"""What passes between the parent and a foreign engine's process, as msgpack."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_type_hints

import msgspec

from enginebay.backends.in_process.errors import ErrorFrame
from enginebay.backends.in_process.foreign_engine import EngineFacts
from enginebay.backends.in_process.prompt_frames import PromptFrame, prompt_frame, prompt_of
from enginebay.types import EngineStats, GenerationChunk, GenerationRequest, Prompt

_HINTS = get_type_hints(GenerationRequest)
_REQUEST_FIELDS = tuple(field.name for field in fields(GenerationRequest) if field.name != "prompt")
_RequestFields = msgspec.defstruct("_RequestFields", [(name, _HINTS[name]) for name in _REQUEST_FIELDS])
"""All of a request but its prompt: a field that is new there is carried here."""

# ---------------------------------------------------------------- to the engine


class Start(msgspec.Struct, frozen=True, tag="start"):
    """The first message, once."""

    keywords: dict[str, object]


class Submit(msgspec.Struct, frozen=True, tag="submit"):
    number: int
    prompt: PromptFrame
    rest: msgspec.Raw


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    number: int


class CountTokens(msgspec.Struct, frozen=True, tag="count_tokens"):
    number: int
    prompt: PromptFrame


class AskStats(msgspec.Struct, frozen=True, tag="stats"):
    number: int


class ResetCache(msgspec.Struct, frozen=True, tag="reset_cache"):
    number: int


ToEngine = Start | Submit | Cancel | CountTokens | AskStats | ResetCache

# ---------------------------------------------------------------- from the engine


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    facts: EngineFacts


class NotReady(msgspec.Struct, frozen=True, tag="not_ready"):
    """The start failed; the process ends after this."""

    error: ErrorFrame


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """Of one stream: a chunk, or the error that ends it. Neither: the engine ended it without a last chunk."""

    number: int
    chunk: GenerationChunk | None = None
    error: ErrorFrame | None = None


class Pieces(msgspec.Struct, frozen=True, tag="pieces"):
    """All that one turn of the engine's loop gave, of all requests."""

    pieces: list[Piece]


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """To a question by its number; which of the fields is set, the question tells."""

    number: int
    token_ids: tuple[int, ...] | None = None
    stats: EngineStats | None = None
    error: ErrorFrame | None = None


class Beat(msgspec.Struct, frozen=True, tag="beat"):
    """Every half second, while the engine's loop turns."""

    stats: EngineStats | None = None


FromEngine = Ready | NotReady | Pieces | Answer | Beat

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
decode_to_engine = msgspec.msgpack.Decoder(ToEngine).decode
decode_from_engine = msgspec.msgpack.Decoder(FromEngine).decode
_decode_fields = msgspec.msgpack.Decoder(_RequestFields).decode


def submit_frame(number: int, request: GenerationRequest) -> bytes:
    values = {name: getattr(request, name) for name in _REQUEST_FIELDS}
    return encode(Submit(number, prompt_frame(request.prompt), msgspec.Raw(encode(values))))


def count_frame(number: int, prompt: Prompt) -> bytes:
    return encode(CountTokens(number, prompt_frame(prompt)))


def request_of(submit: Submit) -> GenerationRequest:
    rest: dict[str, Any] = msgspec.structs.asdict(_decode_fields(submit.rest))
    return GenerationRequest(prompt=prompt_of(submit.prompt), **rest)
