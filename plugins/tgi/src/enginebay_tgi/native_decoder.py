"""Answers of /generate_stream, one event a token, and of /generate."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec

from enginebay.errors import BackendUnavailable, UpstreamError
from enginebay.types import GenerationChunk, GenerationRequest, PromptEcho, TokenAlternative, TokenLogprob
from enginebay.wire.sse import SseParser
from enginebay_tgi.answer_text import AnswerText
from enginebay_tgi.errors import typed_error


class Token(msgspec.Struct, gc=False):
    id: int
    text: str
    logprob: float | None = None
    """Rust writes an infinite number as null: a token that a grammar forbids."""
    special: bool = False


class StreamDetails(msgspec.Struct, gc=False):
    finish_reason: str
    generated_tokens: int
    input_length: int


class StreamEvent(msgspec.Struct):
    token: Token | None = None
    top_tokens: list[Token] = msgspec.field(default_factory=list[Token])
    generated_text: str | None = None
    details: StreamDetails | None = None
    error: str | None = None
    error_type: str = ""


class Details(msgspec.Struct):
    finish_reason: str
    generated_tokens: int
    prefill: list[Token]
    tokens: list[Token]
    top_tokens: list[list[Token]] = msgspec.field(default_factory=list[list[Token]])


class Generated(msgspec.Struct):
    generated_text: str
    details: Details


_decode_event = msgspec.json.Decoder(StreamEvent).decode
_decode_whole = msgspec.json.Decoder(Generated).decode


class NativeDecoder:
    """`http_engine.api.AnswerDecoder`. The last event has the details, and nothing follows it but the end."""

    def __init__(self, request: GenerationRequest, *, backend: str) -> None:
        self._backend = backend
        self._num_logprobs = request.logprobs
        self._text = AnswerText(request, backend=backend, has_ids=True)
        self._events = SseParser()
        self.is_finished = False

    def feed(self, data: bytes, received_at: float) -> Iterable[GenerationChunk]:
        for event in self._events.feed(data):
            details = self._take(event.data, received_at)
            if details is not None:
                self.is_finished = True
                return [details]
        chunk = self._text.taken(received_at)
        return [] if chunk is None else [chunk]

    def end(self, received_at: float) -> Iterable[GenerationChunk]:
        raise BackendUnavailable("the server broke off its answer before the last event", backend=self._backend)

    def whole(self, body: bytes, received_at: float) -> GenerationChunk:
        try:
            answer = _decode_whole(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._malformed("/generate", body, error) from error
        details = answer.details
        if not details.prefill:
            problem = "TGI gave nothing for the prompt: start it with --enable-prefill-logprobs"
            raise UpstreamError(problem, backend=self._backend)
        for index, token in enumerate(details.tokens):
            self._push(token, details.top_tokens[index] if index < len(details.top_tokens) else [])
        return self._text.last(
            details.finish_reason,
            num_prompt_tokens=len(details.prefill),
            num_generated_tokens=details.generated_tokens,
            whole_text=answer.generated_text,
            prompt=_echo(details.prefill),
            received_at=received_at,
        )

    def _take(self, data: bytes, received_at: float) -> GenerationChunk | None:
        """The last chunk, if this is the last event."""
        try:
            event = _decode_event(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._malformed("/generate_stream", data, error) from error
        if event.error is not None:
            raise typed_error(event.error, event.error_type, backend=self._backend)
        if event.token is None:
            raise UpstreamError(f"an event without a token: {data[:200]!r}", backend=self._backend)
        self._push(event.token, event.top_tokens)
        if event.details is None:
            return None
        return self._text.last(
            event.details.finish_reason,
            num_prompt_tokens=event.details.input_length,
            num_generated_tokens=event.details.generated_tokens,
            whole_text=event.generated_text,
            received_at=received_at,
        )

    def _push(self, token: Token, top_tokens: list[Token]) -> None:
        self._text.push(
            token.text, is_special=token.special, token_id=token.id, logprob=self._logprob(token, top_tokens)
        )

    def _logprob(self, token: Token, top_tokens: list[Token]) -> TokenLogprob | None:
        """TGI gives every token that ties for the last place: they are cut to what was asked for."""
        num = self._num_logprobs
        if num is None:
            return None
        if token.logprob is None or (num and not top_tokens):
            raise UpstreamError(f"the token {token.id} has no log-probabilities", backend=self._backend)
        alternatives = tuple(TokenAlternative(top.id, top.text, _number(top.logprob)) for top in top_tokens[:num])
        return TokenLogprob(token.id, token.text, token.logprob, alternatives)

    def _malformed(self, route: str, data: bytes, error: Exception) -> UpstreamError:
        return UpstreamError(f"{route} answered with something else: {error}: {data[:200]!r}", backend=self._backend)


def _echo(prefill: list[Token]) -> PromptEcho:
    logprobs = tuple(
        None if token.logprob is None else TokenLogprob(token.id, token.text, token.logprob) for token in prefill
    )
    return PromptEcho(tuple(token.id for token in prefill), logprobs, tuple(token.text for token in prefill))


def _number(logprob: float | None) -> float:
    return -math.inf if logprob is None else logprob
