"""Answers of /v1/chat/completions: the OpenAI API, and the finish reason `abort`, which is an error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from enginebay.backends.http_engine.openai_decoder import OpenAIDecoder
from enginebay.errors import UpstreamError
from enginebay.types import FinishReason, GenerationChunk


class ChatDecoder:
    def __init__(self, *, backend: str, num_alternatives: int | None) -> None:
        self._backend = backend
        self._answer = OpenAIDecoder("chat", backend=backend, num_alternatives=num_alternatives)

    @property
    def is_finished(self) -> bool:
        return self._answer.is_finished

    def feed(self, data: bytes, received_at: float) -> Iterator[GenerationChunk]:
        return self._checked(self._answer.feed(data, received_at))

    def end(self, received_at: float) -> Iterator[GenerationChunk]:
        return self._checked(self._answer.end(received_at))

    def whole(self, body: bytes, received_at: float) -> GenerationChunk:
        [chunk] = self._checked([self._answer.whole(body, received_at)])
        return chunk

    def _checked(self, chunks: Iterable[GenerationChunk]) -> Iterator[GenerationChunk]:
        for chunk in chunks:
            if chunk.finish_reason is FinishReason.ABORT:
                raise UpstreamError("the engine aborted the request", backend=self._backend)
            yield chunk
