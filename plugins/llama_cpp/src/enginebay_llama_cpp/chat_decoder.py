"""Answers of /v1/chat/completions: the OpenAI API, and beside each event the number of tokens so far."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import msgspec

from enginebay.errors import UpstreamError
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
        self._backend, self._num_alternatives = backend, num_alternatives
        self._answer = AnswerDecoder("chat", backend=backend, num_alternatives=num_alternatives)
        self._events = SseParser()
        self._num_tokens = 0
        self._num_given = 0
        self._has_text = self._has_logprobs = False

    @property
    def is_finished(self) -> bool:
        return self._answer.is_finished

    def feed(self, data: bytes, received_at: float) -> Iterator[GenerationChunk]:
        for event in self._events.feed(data):
            self._count_to(_count(event.data))
            for chunk in self._answer.feed([event], received_at):
                yield self._counted(chunk)
            if self.is_finished:
                return

    def end(self, received_at: float) -> Iterator[GenerationChunk]:
        for chunk in self._answer.end(received_at):
            yield self._counted(chunk)

    def whole(self, body: bytes, received_at: float) -> GenerationChunk:
        chunk = self._answer.whole(body, received_at)
        self._demand_logprobs(chunk)
        return self._without_extra(chunk)

    def _counted(self, chunk: GenerationChunk) -> GenerationChunk:
        self._demand_logprobs(chunk)
        if chunk.usage is not None:
            self._count_to(chunk.usage.num_output_tokens)
        num_tokens, self._num_given = self._num_tokens - self._num_given, self._num_tokens
        return self._without_extra(replace(chunk, num_tokens=num_tokens))

    def _count_to(self, num_so_far: int | None) -> None:
        """Raises UpstreamError for a count that goes back."""
        if num_so_far is None:
            return
        if num_so_far < self._num_tokens:
            problem = f"the server counts {num_so_far} tokens after it had counted {self._num_tokens}"
            raise UpstreamError(problem, backend=self._backend)
        self._num_tokens = num_so_far

    def _demand_logprobs(self, chunk: GenerationChunk) -> None:
        """Raises UpstreamError for an answer with text and none at all.

        An event with text may lack them: where one token makes several, as before a tool call, the last one has them.
        """
        if self._num_alternatives is None:
            return
        self._has_text = self._has_text or bool(chunk.text)
        self._has_logprobs = self._has_logprobs or bool(chunk.logprobs)
        if chunk.finish_reason is not None and self._has_text and not self._has_logprobs:
            raise UpstreamError("the server left out the log-probabilities asked for", backend=self._backend)

    def _without_extra(self, chunk: GenerationChunk) -> GenerationChunk:
        """One alternative was asked for where none was wanted."""
        if self._num_alternatives != 0 or chunk.logprobs is None:
            return chunk
        alone = tuple(TokenLogprob(entry.token_id, entry.token, entry.logprob) for entry in chunk.logprobs)
        return replace(chunk, logprobs=alone)


def _count(data: bytes) -> int | None:
    """The tokens so far; None for [DONE], for an event without, and for what the other decoder will name."""
    try:
        timings = _timed_decoder.decode(data).timings
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return None if timings is None else timings.predicted_n
