"""Answers of the OpenAI API from bytes: server-sent events, then `wire.openai_decode`."""

from __future__ import annotations

from collections.abc import Iterable

from enginebay.types import GenerationChunk
from enginebay.wire.openai_decode import AnswerDecoder
from enginebay.wire.openai_encode import Form
from enginebay.wire.sse import SseParser


class OpenAIDecoder:
    """`http_engine.api.AnswerDecoder` for /v1/completions (`completions`) and /v1/chat/completions (`chat`)."""

    def __init__(self, form: Form, *, backend: str, num_alternatives: int | None = None) -> None:
        """num_alternatives: the log-probabilities that were asked for at each position."""
        self._answer = AnswerDecoder(form, backend=backend, num_alternatives=num_alternatives)
        self._events = SseParser()

    @property
    def is_finished(self) -> bool:
        return self._answer.is_finished

    def feed(self, data: bytes, received_at: float) -> Iterable[GenerationChunk]:
        return self._answer.feed(self._events.feed(data), received_at)

    def end(self, received_at: float) -> Iterable[GenerationChunk]:
        return self._answer.end(received_at)

    def whole(self, body: bytes, received_at: float) -> GenerationChunk:
        return self._answer.whole(body, received_at)
