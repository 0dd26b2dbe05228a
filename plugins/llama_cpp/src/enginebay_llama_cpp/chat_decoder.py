"""Answers of /v1/chat/completions: the OpenAI API, and beside each event the number of tokens so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec

from enginebay.types import GenerationChunk, TokenLogprob
from enginebay.wire.openai_decode import AnswerDecoder
from enginebay.wire.sse import SseParser


class _Timings(msgspec.Struct):
    predicted_n: int


class _Timed(msgspec.Struct):
    timings: _Timings | None = None


_timed_decoder = msgspec.json.Decoder(_Timed)


class ChatDecoder:
    """`timings_per_token` has the server count for us: no event has token ids, and one may hold several tokens."""

    def __init__(self, *, backend: str, num_alternatives: int | None) -> None:
        self._num_alternatives = num_alternatives
        self._answer = AnswerDecoder("chat", backend=backend, num_alternatives=num_alternatives)
        self._events = SseParser()
        self._num_tokens = 0
        self._num_given = 0

    @property
    def is_finished(self) -> bool:
        return self._answer.is_finished

    def feed(self, data: bytes, received_at: float) -> Iterator[GenerationChunk]:
        for event in self._events.feed(data):
            self._num_tokens = max(self._num_tokens, _count(event.data))
            for chunk in self._answer.feed([event], received_at):
                yield self._counted(chunk)
            if self.is_finished:
                return

    def end(self, received_at: float) -> Iterator[GenerationChunk]:
        for chunk in self._answer.end(received_at):
            yield self._counted(chunk)

    def whole(self, body: bytes, received_at: float) -> GenerationChunk:
        return self._without_extra(self._answer.whole(body, received_at))

    def _counted(self, chunk: GenerationChunk) -> GenerationChunk:
        num_so_far = self._num_tokens if chunk.usage is None else chunk.usage.num_output_tokens
        num_tokens = max(0, num_so_far - self._num_given)
        self._num_given += num_tokens
        return self._without_extra(replace(chunk, num_tokens=num_tokens))

    def _without_extra(self, chunk: GenerationChunk) -> GenerationChunk:
        """One alternative was asked for where none was wanted."""
        if self._num_alternatives != 0 or chunk.logprobs is None:
            return chunk
        alone = tuple(TokenLogprob(entry.token_id, entry.token, entry.logprob) for entry in chunk.logprobs)
        return replace(chunk, logprobs=alone)


def _count(data: bytes) -> int:
    try:
        timings = _timed_decoder.decode(data).timings
    except (msgspec.DecodeError, UnicodeDecodeError):
        return 0  # [DONE], or what the other decoder will name
    return 0 if timings is None else timings.predicted_n
