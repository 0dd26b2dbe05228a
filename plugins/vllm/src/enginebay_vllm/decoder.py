"""vLLM's answers: those of the OpenAI API, with vLLM's errors in the stream told apart."""

from __future__ import annotations

from collections.abc import Iterator

from enginebay.backends.http_engine.openai_decoder import OpenAIDecoder
from enginebay.errors import RequestError, UpstreamError
from enginebay.types import GenerationChunk
from enginebay.wire.openai_encode import Form
from enginebay_vllm.answer_errors import sharpened


class VllmDecoder(OpenAIDecoder):
    def __init__(self, form: Form, *, backend: str, num_alternatives: int | None = None) -> None:
        super().__init__(form, backend=backend, num_alternatives=num_alternatives)
        self._backend = backend

    def feed(self, data: bytes, received_at: float) -> Iterator[GenerationChunk]:
        try:
            yield from super().feed(data, received_at)
        except (RequestError, UpstreamError) as error:
            raise sharpened(error, backend=self._backend) from error
