"""What becomes of the engine's tokens: text without special tokens and stop strings, ids, log-probabilities, counts.

TGI keeps the stop string in the text, and notices one only where a token ends with it. So the text is searched here:
what could still become a stop string is held back, and a text that has one ends there at once. Where TGI itself goes
on, its further tokens are counted as discarded; the last chunk waits for TGI's own counts.
"""

from __future__ import annotations

from enginebay.backends.stop_strings import StopMatch, StopStrings
from enginebay.errors import UpstreamError
from enginebay.types import FinishReason, GenerationChunk, GenerationRequest, PromptEcho, TokenLogprob, Usage

_FINISH_REASONS = {
    "length": FinishReason.LENGTH,
    "eos_token": FinishReason.STOP,
    "stop_sequence": FinishReason.STOP,
    "stop": FinishReason.STOP,  # the chat route's word for eos_token
}


class AnswerText:
    """Of one request: `push` each token, then `taken` for a chunk of what came since; `last` ends it."""

    __slots__ = (
        "_backend",
        "_has_ids",
        "_ids",
        "_is_final_only",
        "_logprobs",
        "_match",
        "_num_tokens",
        "_num_untaken",
        "_pieces",
        "_raw_tail",
        "_stop_strings",
        "_stops",
        "_text",
        "_wants_logprobs",
    )  # fmt: skip

    def __init__(self, request: GenerationRequest, *, backend: str, has_ids: bool) -> None:
        """has_ids: the route tells token ids."""
        sampling = request.sampling
        self._backend, self._has_ids = backend, has_ids
        self._wants_logprobs = request.logprobs is not None
        self._is_final_only = request.delivery == "final"
        self._stop_strings = sampling.stop
        self._stops = StopStrings(sampling.stop, include_in_output=sampling.include_stop_str_in_output)
        self._match: StopMatch | None = None
        self._raw_tail = ""  # special tokens included: TGI looks for stop strings in their text too
        self._text: list[str] = []  # all text of the engine, to find out what it held back at the end
        self._pieces: list[str] = []
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._num_untaken = 0
        self._num_tokens = 0

    def push(self, text: str, *, is_special: bool, token_id: int, logprob: TokenLogprob | None) -> None:
        if self._match is not None:
            return
        self._num_tokens += 1
        self._num_untaken += 1
        self._ids.append(token_id)
        if logprob is not None:
            self._logprobs.append(logprob)
        if self._stop_strings:
            longest = max(map(len, self._stop_strings))
            self._raw_tail = (self._raw_tail + text)[-longest:]
        if not is_special:
            self._deliver(text)

    def taken(self, received_at: float) -> GenerationChunk | None:
        """What came since the last chunk; None for nothing, or where one chunk shall carry everything."""
        if self._is_final_only or not self._num_untaken:
            return None
        chunk = GenerationChunk(
            text="".join(self._pieces),
            token_ids=self._take_ids(),
            num_tokens=self._num_untaken,
            logprobs=self._take_logprobs(),
            received_at=received_at,
        )
        self._pieces.clear()
        self._num_untaken = 0
        return chunk

    def last(
        self,
        finish: str,
        *,
        num_prompt_tokens: int,
        num_generated_tokens: int,
        received_at: float,
        whole_text: str | None = None,
        prompt: PromptEcho | None = None,
    ) -> GenerationChunk:
        """finish and the counts are TGI's own; whole_text is its text of all tokens, where the route gives it.

        More tokens than came are kept as they are told. Raises UpstreamError for fewer.
        """
        if num_generated_tokens < self._num_tokens or num_prompt_tokens < 0:
            told = f"{num_prompt_tokens} prompt tokens and {num_generated_tokens} generated ones"
            raise UpstreamError(f"TGI counts {told}, but {self._num_tokens} came", backend=self._backend)
        finish_reason, stop_reason = self._ended(finish, whole_text)
        num_discarded = num_generated_tokens - self._num_tokens if self._match is not None else 0
        return GenerationChunk(
            text="".join(self._pieces),
            token_ids=self._take_ids(),
            num_tokens=self._num_untaken,
            logprobs=self._take_logprobs(),
            received_at=received_at,
            usage=Usage(
                num_prompt_tokens, num_generated_tokens - num_discarded, num_discarded_tokens=num_discarded
            ),
            finish_reason=finish_reason,
            stop_reason=stop_reason,
            prompt=prompt,
        )  # fmt: skip

    def _ended(self, finish: str, whole_text: str | None) -> tuple[FinishReason, str | None]:
        if self._match is None and whole_text is not None:
            self._deliver(self._held_back_by_engine(whole_text))
        if self._match is not None:
            return FinishReason.STOP, self._match.stop
        self._pieces.append(self._stops.flush())
        finish_reason = _FINISH_REASONS.get(finish)
        if finish_reason is None:
            raise UpstreamError(f"TGI ended with the unknown finish reason {finish!r}", backend=self._backend)
        return finish_reason, self._stop_in_special_tokens() if finish == "stop_sequence" else None

    def _held_back_by_engine(self, whole_text: str) -> str:
        """Bytes that never became a character: TGI sends them with the text of the whole answer only."""
        sent = "".join(self._text)
        return whole_text[len(sent) :] if whole_text.startswith(sent) else ""

    def _stop_in_special_tokens(self) -> str | None:
        found = [stop for stop in self._stop_strings if self._raw_tail.endswith(stop)]
        return max(found, key=len, default=None)

    def _deliver(self, text: str) -> None:
        self._text.append(text)
        delivered = self._stops.push(text)
        if isinstance(delivered, StopMatch):
            self._match = delivered
            delivered = delivered.text
        self._pieces.append(delivered)

    def _take_ids(self) -> tuple[int, ...] | None:
        ids = tuple(self._ids) if self._has_ids else None
        self._ids.clear()
        return ids

    def _take_logprobs(self) -> tuple[TokenLogprob, ...] | None:
        logprobs = tuple(self._logprobs) if self._wants_logprobs else None
        self._logprobs.clear()
        return logprobs
