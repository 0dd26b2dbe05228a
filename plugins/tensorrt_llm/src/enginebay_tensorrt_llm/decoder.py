"""Answers of trtllm-serve: the OpenAI form, with two endings of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from enginebay.types import FinishReason, GenerationChunk
from enginebay.wire.openai_decode import AnswerDecoder
from enginebay.wire.openai_encode import Form
from enginebay.wire.sse import SseParser

OWN_FINISH_REASONS: Mapping[str, FinishReason] = {"timeout": FinishReason.ABORT, "cancelled": FinishReason.ABORT}
"""The engine itself gave the request up."""


class _Answer(AnswerDecoder):
    def _finish_reason(self, reason: str | None) -> FinishReason | None:
        return OWN_FINISH_REASONS.get(reason or "") or super()._finish_reason(reason)


class TrtllmDecoder:
    """`http_engine.api.AnswerDecoder`. A chat's first event has a role and no token: it becomes no chunk."""

    def __init__(self, form: Form, *, backend: str, num_alternatives: int | None) -> None:
        self._answer = _Answer(form, backend=backend, num_alternatives=num_alternatives)
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
