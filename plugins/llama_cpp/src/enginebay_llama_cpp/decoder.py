"""Answers of /completion made chunks: each event is a token, but for those that end inside a character.

A token whose bytes end in the middle of a character is held back and never sent: its text comes with the next one, its
id and log-probability nowhere. The count of all tokens so far, which every event has, tells that it was there.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import UNSET, Raw, UnsetType

from enginebay.errors import BackendUnavailable, UpstreamError
from enginebay.types import FinishReason, GenerationChunk, TokenAlternative, TokenLogprob, Usage
from enginebay.wire.sse import SseParser
from enginebay_llama_cpp.errors import error_from_body

MAX_HELD_BACK = 4
"""Three bytes of an unfinished character, a token each, and the end of the sequence after them."""
FINISH_REASONS = {"eos": FinishReason.STOP, "word": FinishReason.STOP, "limit": FinishReason.LENGTH}


class _Alternative(msgspec.Struct):
    id: int
    token: str
    logprob: float


class _Probability(msgspec.Struct):
    id: int
    token: str
    logprob: float
    top_logprobs: list[_Alternative] = []


class _Timings(msgspec.Struct):
    cache_n: int | None = None


class _Answer(msgspec.Struct):
    """An event of a stream, or the whole answer."""

    content: str = ""
    tokens: tuple[int, ...] = ()
    stop: bool = False
    tokens_predicted: int = 0
    tokens_evaluated: int = 0
    stop_type: str = "none"
    stopping_word: str = ""
    completion_probabilities: list[_Probability] | None = None
    timings: _Timings | None = None
    error: Raw | UnsetType = UNSET


_answer_decoder = msgspec.json.Decoder(_Answer)


class CompletionDecoder:
    def __init__(self, *, backend: str, num_alternatives: int | None, max_tokens: int) -> None:
        """num_alternatives: the log-probabilities that were asked for at each position."""
        self._backend, self._num_alternatives, self._max_tokens = backend, num_alternatives, max_tokens
        self._events = SseParser()
        self._num_tokens = 0
        self.is_finished = False

    def feed(self, data: bytes, received_at: float) -> Iterator[GenerationChunk]:
        for event in self._events.feed(data):
            chunk = self._chunk(self._decode(event.data), received_at, is_whole=False)
            if chunk is not None:
                yield chunk
            if self.is_finished:
                return

    def end(self, received_at: float) -> list[GenerationChunk]:
        """There is no [DONE]: the last event says `stop`, or the answer was cut off."""
        if not self.is_finished:
            raise BackendUnavailable(
                "the server ended the stream before the answer was finished", backend=self._backend
            )
        return []

    def whole(self, body: bytes, received_at: float) -> GenerationChunk:
        chunk = self._chunk(self._decode(body), received_at, is_whole=True)
        if chunk is None or not self.is_finished:
            raise UpstreamError(f"the answer has no end: {body[:200]!r}", backend=self._backend)
        return chunk

    def _decode(self, data: bytes) -> _Answer:
        try:
            answer = _answer_decoder.decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            problem = f"the server sent an event that is not understood ({error}): {data[:200]!r}"
            raise UpstreamError(problem, backend=self._backend) from error
        if answer.error is not UNSET:
            raise error_from_body(500, data, backend=self._backend)
        return answer

    def _chunk(self, answer: _Answer, received_at: float, *, is_whole: bool) -> GenerationChunk | None:
        num_tokens = self._count(answer, is_whole=is_whole)
        if not (num_tokens or answer.content or answer.stop):
            return None  # progress of the prompt
        are_all_there = len(answer.tokens) == num_tokens
        finish_reason = self._finish_reason(answer) if answer.stop else None
        return GenerationChunk(
            text=answer.content,
            token_ids=answer.tokens if are_all_there else None,
            num_tokens=num_tokens,
            logprobs=self._logprobs(answer, num_tokens, is_whole=is_whole),
            received_at=received_at,
            usage=_usage(answer) if answer.stop else None,
            finish_reason=finish_reason,
            stop_reason=answer.stopping_word if answer.stop and answer.stop_type == "word" else None,
        )

    def _count(self, answer: _Answer, *, is_whole: bool) -> int:
        """The tokens of this event. Raises UpstreamError for a count that cannot be."""
        num_tokens = answer.tokens_predicted - self._num_tokens
        num_ids = len(answer.tokens)
        is_jump = not is_whole and num_tokens > num_ids + MAX_HELD_BACK
        if num_tokens < num_ids or is_jump or answer.tokens_predicted > self._max_tokens:
            problem = (
                f"the server counts {answer.tokens_predicted} tokens, after {self._num_tokens} and "
                f"{num_ids} more that it sent, of at most {self._max_tokens}"
            )
            raise UpstreamError(problem, backend=self._backend)
        self._num_tokens = answer.tokens_predicted
        return num_tokens

    def _finish_reason(self, answer: _Answer) -> FinishReason:
        if answer.stop_type not in FINISH_REASONS:
            raise UpstreamError(f"the server finished with stop_type {answer.stop_type!r}", backend=self._backend)
        self.is_finished = True
        return FINISH_REASONS[answer.stop_type]

    def _logprobs(self, answer: _Answer, num_tokens: int, *, is_whole: bool) -> tuple[TokenLogprob, ...] | None:
        """Of a whole answer those of the stop word are cut off; of a stream a chunk has all of its tokens' or none.

        Raises UpstreamError where the server leaves out those of tokens that it sent.
        """
        found = answer.completion_probabilities
        if self._num_alternatives is None:
            return None
        if not found and answer.tokens and (not is_whole or answer.content):
            raise UpstreamError("the server left out the log-probabilities asked for", backend=self._backend)
        if found is None or (not answer.stop and len(found) != num_tokens):
            return None
        num_alternatives = self._num_alternatives
        return tuple(
            TokenLogprob(
                entry.id,
                entry.token,
                entry.logprob,
                tuple(
                    TokenAlternative(top.id, top.token, top.logprob) for top in entry.top_logprobs[:num_alternatives]
                ),
            )
            for entry in found
        )


def _usage(answer: _Answer) -> Usage:
    cached = answer.timings.cache_n if answer.timings is not None else None
    return Usage(answer.tokens_evaluated, answer.tokens_predicted, cached)
