"""From the engine's token ids to the chunks of one stream: text, stop strings, log-probabilities, usage."""

from __future__ import annotations

from collections.abc import Sequence

from enginebay.backends.reference.detokenizer import Detokenizer
from enginebay.backends.reference.token_bytes import TokenBytes
from enginebay.backends.stop_strings import StopMatch, StopStrings
from enginebay.engine.request import EngineOutput, PositionLogprobs
from enginebay.errors import InvalidRequest
from enginebay.types import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    PromptEcho,
    TokenAlternative,
    TokenLogprob,
    Usage,
)


class OutputText:
    """One request's way from token ids to chunks; `push` is called for each output of the engine, in order."""

    def __init__(self, request: GenerationRequest, token_bytes: TokenBytes, *, prompt_token_ids: Sequence[int]) -> None:
        sampling = request.sampling
        self._sampling = sampling
        self._bytes = token_bytes
        self._prompt_token_ids = tuple(prompt_token_ids)
        self._num_logprobs = request.logprobs
        self._detokenizer = Detokenizer(
            token_bytes, skip_special_tokens=sampling.skip_special_tokens, prompt_token_ids=self._prompt_token_ids
        )
        self._stops = StopStrings(sampling.stop, include_in_output=sampling.include_stop_str_in_output)
        self._num_resumed = len(request.resume_token_ids)
        self._num_output_tokens = 0
        self._has_begun = False
        self._resume(request.resume_token_ids)

    def push(self, output: EngineOutput, *, received_at: float) -> GenerationChunk:
        """The chunk for one output. With a `finish_reason` it is the last, even where the engine goes on."""
        if self._sampling.max_tokens == 0:
            return self._prompt_only(output, received_at=received_at)
        text, num_kept, match = self._text(output)
        self._num_output_tokens += num_kept
        finish_reason = FinishReason(output.finish_reason) if output.finish_reason else None
        stop_reason: str | int | None = output.stop_token_id
        if match is not None:
            finish_reason, stop_reason = FinishReason.STOP, match.stop
        return GenerationChunk(
            text=text,
            token_ids=tuple(output.token_ids[:num_kept]),
            num_tokens=num_kept,
            logprobs=self._logprobs(output.logprobs, num_kept),
            received_at=received_at,
            usage=self._usage(output, num_discarded_tokens=len(output.token_ids) - num_kept),
            finish_reason=finish_reason,
            stop_reason=stop_reason,
            prompt=self._echo(output),
        )

    def _text(self, output: EngineOutput) -> tuple[str, int, StopMatch | None]:
        """The text that may be delivered now, how many tokens count, and the stop string that was found."""
        pieces: list[str] = []
        for index, token_id in enumerate(output.token_ids):
            step = self._push_token(token_id, num_before=index, is_stop=_is_stop(output, index))
            if isinstance(step, StopMatch):
                return "".join([*pieces, step.text]), index + 1, step
            pieces.append(step)
        if output.finish_reason is not None:
            pieces.append(self._stops.flush())
        return "".join(pieces), len(output.token_ids), None

    def _push_token(self, token_id: int, *, num_before: int, is_stop: bool) -> str | StopMatch:
        """num_before: tokens of the same output before this one; is_stop: it ended the output in the engine."""
        if is_stop and not self._sampling.include_stop_str_in_output:
            return ""
        num_tokens = self._num_resumed + self._num_output_tokens + num_before + 1
        piece = self._detokenizer.push(token_id)
        return self._stops.push(piece, may_stop=num_tokens > self._sampling.min_tokens)

    def _resume(self, token_ids: Sequence[int]) -> None:
        """Bring both stages to where they stood when these tokens were delivered; their text is not sent again."""
        for index, token_id in enumerate(token_ids, 1):
            piece = self._detokenizer.push(token_id)
            if isinstance(self._stops.push(piece, may_stop=index > self._sampling.min_tokens), StopMatch):
                raise InvalidRequest(
                    "resume_token_ids already contain a stop string: that output was complete", field="resume_token_ids"
                )

    def _usage(self, output: EngineOutput, *, num_discarded_tokens: int) -> Usage:
        return Usage(
            num_prompt_tokens=len(self._prompt_token_ids),
            num_output_tokens=self._num_output_tokens,
            num_cached_tokens=output.num_cached_tokens,
            num_discarded_tokens=num_discarded_tokens,
        )

    def _prompt_only(self, output: EngineOutput, *, received_at: float) -> GenerationChunk:
        """max_tokens 0: the engine computed the prompt, and sampled nothing."""
        return GenerationChunk(
            token_ids=(),
            num_tokens=0,
            logprobs=None if self._num_logprobs is None else (),
            received_at=received_at,
            usage=self._usage(output, num_discarded_tokens=0),
            finish_reason=FinishReason.LENGTH,
            prompt=self._echo(output),
        )

    # ---------------------------------------------------------------- log-probabilities and the prompt

    def _logprobs(self, positions: list[PositionLogprobs] | None, num_kept: int) -> tuple[TokenLogprob, ...] | None:
        if self._num_logprobs is None or positions is None:
            return None
        return tuple(self._token_logprob(position) for position in positions[:num_kept])

    def _token_logprob(self, position: PositionLogprobs) -> TokenLogprob:
        alternatives = tuple(
            TokenAlternative(token_id, self._bytes.text(token_id), logprob)
            for token_id, logprob in zip(position.top_ids, position.top_logprobs, strict=True)
        )
        return TokenLogprob(position.token_id, self._bytes.text(position.token_id), position.logprob, alternatives)

    def _echo(self, output: EngineOutput) -> PromptEcho | None:
        """On the first chunk; texts of the tokens only beside their log-probabilities."""
        if self._has_begun:
            return None
        self._has_begun = True
        if output.prompt_logprobs is None:
            return PromptEcho(self._prompt_token_ids)
        logprobs = tuple(
            None if position is None else self._token_logprob(position) for position in output.prompt_logprobs
        )
        tokens = tuple(self._bytes.text(token_id) for token_id in self._prompt_token_ids)
        return PromptEcho(self._prompt_token_ids, logprobs, tokens)


def _is_stop(output: EngineOutput, index: int) -> bool:
    """In the engine only a token ends an output with `stop`: the last one."""
    return output.finish_reason == FinishReason.STOP and index == len(output.token_ids) - 1
