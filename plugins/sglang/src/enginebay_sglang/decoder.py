"""Answers of /generate made chunks. Each event has the whole text, or what is new: as the server was started."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import msgspec
from msgspec import UNSET, Raw, UnsetType

from enginebay.errors import BackendUnavailable, UpstreamError
from enginebay.types import FinishReason, GenerationChunk, TokenAlternative, TokenLogprob, Usage
from enginebay.wire.sse import DONE, SseParser
from enginebay_sglang.errors import error_from_abort, error_from_body

FINISH_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}
REPLACEMENT = "\ufffd"
Logprob = tuple[float, int, str | None]
"""(log-probability, token id, text where it was asked for)"""


class _Finish(msgspec.Struct):
    type: str
    matched: int | str | list[int] | None = None
    message: str | None = None
    status_code: int | None = None


class _Meta(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    finish_reason: _Finish | None = None
    output_token_logprobs: list[Logprob] | None = None
    output_top_logprobs: list[list[Logprob] | None] | None = None


class _Answer(msgspec.Struct):
    text: str = ""
    output_ids: list[int] = []
    meta_info: _Meta | None = None
    error: Raw | UnsetType = UNSET


_answer_decoder = msgspec.json.Decoder(_Answer)


@dataclass(slots=True)
class _Given:
    """What was given out so far."""

    text: str = ""
    num_tokens: int = 0


class GenerateDecoder:
    def __init__(
        self, *, backend: str, is_cumulative: bool, stop_token_ids: Collection[int], num_alternatives: int | None
    ) -> None:
        self._backend, self._is_cumulative = backend, is_cumulative
        self._stop_token_ids, self._num_alternatives = stop_token_ids, num_alternatives
        self._events = SseParser()
        self._given = _Given()
        self.is_finished = False

    def feed(self, data: bytes, received_at: float) -> Iterator[GenerationChunk]:
        for event in self._events.feed(data):
            if event.data == DONE:
                raise UpstreamError("the server ended the stream without a finish_reason", backend=self._backend)
            if (chunk := self._chunk(self._decode(event.data), received_at)) is not None:
                yield chunk
            if self.is_finished:
                return

    def end(self, received_at: float) -> list[GenerationChunk]:
        if not self.is_finished:
            raise BackendUnavailable(
                "the server ended the stream before the answer was finished", backend=self._backend
            )
        return []

    def whole(self, body: bytes, received_at: float) -> GenerationChunk:
        self._is_cumulative = False
        chunk = self._chunk(self._decode(body), received_at)
        if chunk is None or not self.is_finished:
            raise UpstreamError(f"the answer has no finish_reason: {body[:200]!r}", backend=self._backend)
        return chunk

    # ---------------------------------------------------------------- one event

    def _decode(self, data: bytes) -> _Answer:
        try:
            answer = _answer_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            problem = f"the server sent an event that is not understood ({error}): {data[:200]!r}"
            raise UpstreamError(problem, backend=self._backend) from error
        if answer.error is not UNSET:
            raise error_from_body(200, data, backend=self._backend)
        return answer

    def _chunk(self, answer: _Answer, received_at: float) -> GenerationChunk | None:
        meta = answer.meta_info
        if meta is None:
            raise UpstreamError("the server sent an event without meta_info", backend=self._backend)
        finish = meta.finish_reason
        reason = None if finish is None else self._finish_reason(finish)
        text = self._new_text(answer.text, is_last=reason is not None)
        token_ids = tuple(self._new(answer.output_ids))
        logprobs = self._logprobs(meta)
        self._given.num_tokens += len(token_ids)
        if not (text or token_ids or reason):
            return None
        return GenerationChunk(
            text=text,
            token_ids=token_ids,
            num_tokens=len(token_ids),
            logprobs=logprobs,
            received_at=received_at,
            usage=Usage(meta.prompt_tokens, meta.completion_tokens, meta.cached_tokens),
            finish_reason=reason,
            stop_reason=None if finish is None else self._stop_reason(finish),
        )

    def _new(self, values: list[int]) -> list[int]:
        return values[self._given.num_tokens :] if self._is_cumulative else values

    def _new_text(self, text: str, *, is_last: bool) -> str:
        """Behind what was given out. A text may end inside a character, which the next one shows instead of U+FFFD."""
        if not self._is_cumulative:
            return text
        shown = text if is_last else text.rstrip(REPLACEMENT)
        given = self._given.text
        if not shown.startswith(given):
            if given.startswith(shown) and not is_last:
                return ""  # held back again, for a stop string that may follow
            problem = "the server changed the text that it had sent; is it started with --incremental-streaming-output?"
            raise UpstreamError(problem, backend=self._backend)
        self._given.text = shown
        return shown[len(given) :]

    # ---------------------------------------------------------------- the end

    def _finish_reason(self, finish: _Finish) -> FinishReason:
        if finish.type == "abort":
            raise error_from_abort(finish.message or "aborted", finish.status_code, backend=self._backend)
        if finish.type not in FINISH_REASONS:
            raise UpstreamError(f"the server finished with {finish.type!r}", backend=self._backend)
        self.is_finished = True
        return FINISH_REASONS[finish.type]

    def _stop_reason(self, finish: _Finish) -> str | int | None:
        """`matched` is the end-of-sequence token too, which is no reason of the request's."""
        matched = finish.matched
        if isinstance(matched, str):
            return matched
        return matched if isinstance(matched, int) and matched in self._stop_token_ids else None

    # ---------------------------------------------------------------- log-probabilities

    def _logprobs(self, meta: _Meta) -> tuple[TokenLogprob, ...] | None:
        if meta.output_token_logprobs is None or self._num_alternatives is None:
            return None
        begin = self._given.num_tokens if self._is_cumulative else 0
        chosen = meta.output_token_logprobs[begin:]
        tops = (meta.output_top_logprobs or [])[begin:]
        padded = [*tops, *[None] * (len(chosen) - len(tops))]
        return tuple(
            TokenLogprob(token_id, text or "", logprob, tuple(_alternatives(top)))
            for (logprob, token_id, text), top in zip(chosen, padded, strict=False)
        )


def _alternatives(top: list[Logprob] | None) -> Iterator[TokenAlternative]:
    return (TokenAlternative(token_id, text or "", logprob) for logprob, token_id, text in top or ())
