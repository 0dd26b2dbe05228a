"""What both OpenAI endpoints answer in common: options, envelope, server-sent events, the model list.

A stream's constant bytes are encoded once; a chunk that carries nothing but text costs one string to escape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from enginebay.types import GenerationChunk, Usage
from enginebay.wire.openai_errors import error_body
from enginebay.wire.openai_usage import usage_json

DONE = b"data: [DONE]\n\n"
encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseOptions:
    """What of a request decides the form of its answer."""

    response_id: str
    created: int
    """Unix seconds."""
    model: str
    num_choices: int = 1
    choices_per_prompt: int = 1
    include_usage: bool = False
    continuous_usage: bool = False
    wants_logprobs: bool = False
    wants_prompt_logprobs: bool = False
    wants_token_ids: bool = False
    tokens_as_ids: bool = False
    """In logprobs, name a token `token_id:17`."""

    @property
    def is_plain(self) -> bool:
        return not (self.wants_logprobs or self.wants_prompt_logprobs or self.wants_token_ids)


class ResponseEncoder(Protocol):
    """One for each response: either `final`, or for a stream first `opening`, `piece` for each chunk, `usage_piece`."""

    def opening(self) -> bytes:
        """Makes ready for a stream; what it returns goes before the first chunk."""
        ...

    def piece(self, index: int, chunk: GenerationChunk, usage: Usage | None) -> bytes:
        """usage: of this choice so far, for continuous usage."""
        ...

    def usage_piece(self, usage: Usage) -> bytes: ...

    def final(self, answers: Sequence[GenerationChunk], usage: Usage) -> bytes:
        """The whole body of an answer that is not streamed; answers in the order of the choices."""
        ...


class StreamEnvelope:
    """The bytes around the choice of a chunk: `data: {"id": ..., "choices": [<choice>], "usage": ...}`."""

    __slots__ = ("_usage_of_other_chunks", "head")

    def __init__(self, options: ResponseOptions, object_name: str) -> None:
        fields = encode(
            {
                "id": options.response_id,
                "object": object_name,
                "created": options.created,
                "model": options.model,
            }
        )
        self.head = b"data: " + fields[:-1] + b',"choices":['
        self._usage_of_other_chunks = b',"usage":null' if options.include_usage else b""

    def tail(self, usage: Usage | None = None, extra: bytes = b"") -> bytes:
        """extra: further members of the object, each after its comma."""
        usage_member = self._usage_of_other_chunks if usage is None else b',"usage":' + usage_json(usage)
        return b"]" + usage_member + extra + b"}\n\n"

    def usage_piece(self, usage: Usage) -> bytes:
        return self.head + self.tail(usage)


def error_event(error: BaseException) -> bytes:
    """For an error after the answer has begun with status 200; `DONE` follows it."""
    return b"data: " + error_body(error) + b"\n\n"


def has_content(chunk: GenerationChunk) -> bool:
    """Whether a client learns anything from this chunk; a token without text (half a character) counts."""
    return bool(
        chunk.text
        or chunk.finish_reason is not None
        or chunk.num_tokens
        or chunk.token_ids
        or chunk.reasoning_text
        or chunk.tool_call_deltas
    )


_Settings = dict[str, object]  # inside the class `object` is a field


class ModelEntry(msgspec.Struct, kw_only=True):
    id: str
    created: int
    object: str = "model"
    owned_by: str = "enginebay"
    root: str | None = None
    parent: str | None = None
    max_model_len: int | None = None
    features: list[str] | None = None
    """Beyond the OpenAI API, as the following: what the backend can do, by the names of `enginebay.types.Feature`."""
    kind: str | None = None
    """Of the backend that serves."""
    engine_version: str | None = None
    effective_settings: _Settings | None = None
    """What the engine says it runs with."""


class ModelList(msgspec.Struct, kw_only=True):
    data: list[ModelEntry]
    object: str = "list"
