"""Answers of Triton's generate endpoints: events without an end mark, text alone, counts that were asked for."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import UNSET, UnsetType

from enginebay.errors import BackendUnavailable, EngineStepFailed, UpstreamError
from enginebay.types import FinishReason, GenerationChunk, Usage
from enginebay.wire.sse import SseParser


class _Event(msgspec.Struct):
    text_output: str | UnsetType = UNSET
    num_input_tokens: int | list[int] | None = None
    num_output_tokens: int | list[int] | None = None
    error: str | None = None


_decoder = msgspec.json.Decoder(_Event)


class TritonDecoder:
    """The ensemble tells no finish reason: a stream that ends well with fewer tokens than asked for has stopped."""

    def __init__(self, *, backend: str, max_tokens: int) -> None:
        self._backend, self._max_tokens = backend, max_tokens
        self._events = SseParser()
        self._num_prompt_tokens: int | None = None
        self._num_output_tokens = 0
        self._are_all_counted = True
        self._has_begun = False
        self.is_finished = False

    def feed(self, data: bytes, received_at: float) -> Iterator[GenerationChunk]:
        for event in self._events.feed(data):
            chunk = self._chunk(self._decoded(event.data), received_at)
            if chunk.text or chunk.num_tokens:
                yield chunk

    def end(self, received_at: float) -> list[GenerationChunk]:
        """Nothing marks the end of a stream but its own: what ends it properly is the end of the HTTP body."""
        if self._events.is_inside_event or not self._has_begun:
            raise BackendUnavailable("the server ended the stream before the answer began", backend=self._backend)
        return [self._last(GenerationChunk(num_tokens=0, received_at=received_at))]

    def whole(self, body: bytes, received_at: float) -> GenerationChunk:
        return self._last(self._chunk(self._decoded(body), received_at))

    def _decoded(self, data: bytes) -> _Event:
        try:
            event = _decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            problem = f"the server sent an event that is not understood: {error}"
            raise UpstreamError(problem, backend=self._backend) from error
        if event.error is not None:
            raise EngineStepFailed(event.error, backend=self._backend)
        if event.text_output is UNSET:
            raise UpstreamError("the server sent an event without text_output", backend=self._backend)
        return event

    def _chunk(self, event: _Event, received_at: float) -> GenerationChunk:
        assert event.text_output is not UNSET
        self._has_begun = True
        num_prompt_tokens, num_tokens = _count(event.num_input_tokens), _count(event.num_output_tokens)
        if num_prompt_tokens is not None:
            self._num_prompt_tokens = num_prompt_tokens
        self._are_all_counted = self._are_all_counted and num_tokens is not None
        self._num_output_tokens += num_tokens or 0
        return GenerationChunk(text=event.text_output, num_tokens=num_tokens, received_at=received_at)

    def _last(self, chunk: GenerationChunk) -> GenerationChunk:
        if self._num_prompt_tokens is None or not self._are_all_counted:
            problem = "the answer has no counts, which were asked for (return_num_input_tokens, ..._output_tokens)"
            raise UpstreamError(problem, backend=self._backend)
        self.is_finished = True
        is_cut = self._num_output_tokens >= self._max_tokens
        return GenerationChunk(
            text=chunk.text,
            num_tokens=chunk.num_tokens,
            received_at=chunk.received_at,
            usage=Usage(self._num_prompt_tokens, self._num_output_tokens),
            finish_reason=FinishReason.LENGTH if is_cut else FinishReason.STOP,
        )


def _count(value: int | list[int] | None) -> int | None:
    """A tensor of one element may come as a list of one."""
    return sum(value) if isinstance(value, list) else value
