"""From the engine's outputs to the chunks of one stream: text, stop strings, log-probabilities, usage."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from enginebay.backends.stop_strings import StopMatch, StopStrings
from enginebay.types import FinishReason, GenerationChunk, GenerationRequest, PromptEcho, TokenLogprob, Usage
from enginebay_openvino.vocabulary import Decode, TokenText

_FINISH_REASONS = {"NONE": None, "STOP": FinishReason.STOP, "LENGTH": FinishReason.LENGTH}


class OutputReader:
    def __init__(
        self,
        request: GenerationRequest,
        *,
        prompt_token_ids: tuple[int, ...],
        eos_ids: Collection[int],
        text: TokenText,
        decode: Decode,
    ) -> None:
        """decode: of single tokens, for log-probabilities."""
        self._request, self._sampling = request, request.sampling
        self._prompt_token_ids = prompt_token_ids
        self._eos_ids, self._text, self._decode = eos_ids, text, decode
        self._stops = StopStrings(request.sampling.stop, include_in_output=request.sampling.include_stop_str_in_output)
        self._num_output_tokens = 0
        self._has_begun = False

    def read(self, output: Any) -> GenerationChunk:
        """One output of the engine, of one token or several. With a `finish_reason` it is the last."""
        token_ids = list(output.generated_ids)
        finish_reason = _FINISH_REASONS[output.finish_reason.name]
        pieces: list[str] = []
        num_kept, match = 0, None
        for token_id in token_ids:
            num_kept += 1
            is_end = finish_reason is FinishReason.STOP and num_kept == len(token_ids)
            step = self._push(token_id, num_tokens=self._num_output_tokens + num_kept, is_end=is_end)
            if isinstance(step, StopMatch):
                match = step
                pieces.append(step.text)
                break
            pieces.append(step)
        if match is None and finish_reason is not None:
            pieces.append(self._stops.flush())
        self._num_output_tokens += num_kept
        return GenerationChunk(
            text="".join(pieces),
            token_ids=tuple(token_ids[:num_kept]),
            num_tokens=num_kept,
            logprobs=self._logprobs(token_ids[:num_kept], output.generated_log_probs),
            received_at=0.0,  # the parent stamps it
            usage=Usage(
                num_prompt_tokens=len(self._prompt_token_ids),
                num_output_tokens=self._num_output_tokens,
                num_discarded_tokens=len(token_ids) - num_kept,
            ),
            finish_reason=FinishReason.STOP if match is not None else finish_reason,
            stop_reason=match.stop if match is not None else self._stop_token(token_ids, finish_reason),
            prompt=self._echo(),
        )

    def _push(self, token_id: int, *, num_tokens: int, is_end: bool) -> str | StopMatch:
        """is_end: the token that ended the output in the engine; its text is not part of it."""
        if is_end and not self._sampling.include_stop_str_in_output:
            return ""
        return self._stops.push(self._text.push(token_id), may_stop=num_tokens > self._sampling.min_tokens)

    def _stop_token(self, token_ids: list[int], finish_reason: FinishReason | None) -> int | None:
        if finish_reason is not FinishReason.STOP or not token_ids:
            return None
        last = token_ids[-1]
        is_asked_for = last in self._sampling.stop_token_ids
        is_own_end = last in self._eos_ids and not self._sampling.ignore_eos
        return last if is_asked_for and not is_own_end else None

    def _logprobs(self, token_ids: list[int], values: list[float]) -> tuple[TokenLogprob, ...] | None:
        if self._request.logprobs is None:
            return None
        return tuple(
            TokenLogprob(token_id, self._decode([token_id]), value)
            for token_id, value in zip(token_ids, values, strict=False)
        )

    def _echo(self) -> PromptEcho | None:
        if self._has_begun:
            return None
        self._has_begun = True
        return PromptEcho(self._prompt_token_ids)
