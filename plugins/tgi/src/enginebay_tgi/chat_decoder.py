"""Streams of /v1/chat/completions: one event a token, then one with the usage, then `[DONE]`.

Not the decoder of the OpenAI API: TGI's events tell the number of tokens, its stop strings must be trimmed, and its
errors inside a stream have a form of their own.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from enginebay.errors import BackendUnavailable, UpstreamError
from enginebay.types import GenerationChunk, GenerationRequest, TokenAlternative, TokenLogprob
from enginebay.wire.sse import DONE, SseParser
from enginebay_tgi.answer_text import AnswerText
from enginebay_tgi.errors import typed_error


class Delta(msgspec.Struct):
    content: str | None = None


class TopLogprob(msgspec.Struct):
    token: str
    logprob: float | None = None


class TokenLogprobs(msgspec.Struct):
    token: str
    logprob: float | None = None
    top_logprobs: list[TopLogprob] = msgspec.field(default_factory=list[TopLogprob])


class Logprobs(msgspec.Struct):
    content: list[TokenLogprobs] = msgspec.field(default_factory=list[TokenLogprobs])


class Choice(msgspec.Struct):
    delta: Delta
    logprobs: Logprobs | None = None
    finish_reason: str | None = None


class UsageCounts(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class ErrorInside(msgspec.Struct):
    message: str
    http_status_code: int | None = None


class ChatEvent(msgspec.Struct):
    choices: list[Choice] = msgspec.field(default_factory=list[Choice])
    usage: UsageCounts | None = None
    error: ErrorInside | str | None = None
    error_type: str = ""


_decode_event = msgspec.json.Decoder(ChatEvent).decode
_NO_ID = -1
"""The chat route tells no token ids."""


class ChatDecoder:
    """`http_engine.api.AnswerDecoder`."""

    def __init__(self, request: GenerationRequest, *, backend: str) -> None:
        self._backend = backend
        self._num_logprobs = request.logprobs
        self._text = AnswerText(request, backend=backend, has_ids=False)
        self._events = SseParser()
        self._finish: str | None = None
        self.is_finished = False

    def feed(self, data: bytes, received_at: float) -> Iterable[GenerationChunk]:
        for event in self._events.feed(data):
            last = self._take(event.data, received_at)
            if last is not None:
                self.is_finished = True
                return [last]
        chunk = self._text.taken(received_at)
        return [] if chunk is None else [chunk]

    def end(self, received_at: float) -> Iterable[GenerationChunk]:
        raise BackendUnavailable("the server broke off its answer before the usage", backend=self._backend)

    def whole(self, body: bytes, received_at: float) -> GenerationChunk:
        raise UpstreamError(f"a stream was asked for, but the answer is {body[:200]!r}", backend=self._backend)

    def _take(self, data: bytes, received_at: float) -> GenerationChunk | None:
        """The last chunk, if this is the event with the usage."""
        if data == DONE:
            raise BackendUnavailable("the stream ended without finish reason and usage", backend=self._backend)
        try:
            event = _decode_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            problem = f"the chat route answered with something else: {error}: {data[:200]!r}"
            raise UpstreamError(problem, backend=self._backend) from error
        if event.error is not None:
            message = event.error if isinstance(event.error, str) else event.error.message
            raise typed_error(message, event.error_type, backend=self._backend)
        for choice in event.choices:
            self._push(choice)
        if event.usage is None or self._finish is None:
            return None
        return self._text.last(
            self._finish,
            num_prompt_tokens=event.usage.prompt_tokens,
            num_generated_tokens=event.usage.completion_tokens,
            received_at=received_at,
        )

    def _push(self, choice: Choice) -> None:
        # The text of a special token is left out by the server: nothing here is one.
        self._text.push(
            choice.delta.content or "", is_special=False, token_id=_NO_ID, logprob=self._logprob(choice.logprobs)
        )
        if choice.finish_reason:
            self._finish = choice.finish_reason

    def _logprob(self, logprobs: Logprobs | None) -> TokenLogprob | None:
        if self._num_logprobs is None:
            return None
        told = logprobs.content[0] if logprobs is not None and logprobs.content else None
        if told is None or told.logprob is None or (self._num_logprobs and not told.top_logprobs):
            raise UpstreamError("the chat route gave a token without its log-probabilities", backend=self._backend)
        alternatives = tuple(
            TokenAlternative(None, top.token, _number(top.logprob)) for top in told.top_logprobs[: self._num_logprobs]
        )
        return TokenLogprob(None, told.token, told.logprob, alternatives)


def _number(logprob: float | None) -> float:
    return float("-inf") if logprob is None else logprob
