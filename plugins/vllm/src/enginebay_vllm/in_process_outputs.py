"""Requests as vLLM's `SamplingParams`, and its outputs as chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enginebay.errors import EngineStepFailed
from enginebay.types import (
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    PromptEcho,
    ResponseFormat,
    TokenAlternative,
    TokenLogprob,
    Usage,
)
from enginebay_vllm.json_schema import bare


def sampling_params(request: GenerationRequest) -> Any:
    from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
    from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

    sampling = request.sampling
    return SamplingParams(
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias) or None,
        stop=list(sampling.stop),
        include_stop_str_in_output=sampling.include_stop_str_in_output,
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=sampling.ignore_eos,
        min_tokens=sampling.min_tokens,
        seed=sampling.seed,
        skip_special_tokens=sampling.skip_special_tokens,
        logprobs=request.logprobs,
        prompt_logprobs=request.prompt_logprobs,
        structured_outputs=_structured_outputs(request.response_format),
        output_kind=RequestOutputKind.DELTA,
    )


def _structured_outputs(wanted: ResponseFormat | None) -> Any:
    if wanted is None or wanted.type == "text":
        return None
    from vllm.sampling_params import StructuredOutputsParams  # pyright: ignore[reportMissingImports]

    if wanted.type == "json_object":
        return StructuredOutputsParams(json_object=True)
    if wanted.type == "json_schema":
        return StructuredOutputsParams(json=bare(wanted.schema))
    return StructuredOutputsParams(**{wanted.type: wanted.schema})


class OutputReader:
    """The outputs of one request, in their order; each carries what is new."""

    def __init__(self, request: GenerationRequest) -> None:
        self._num_alternatives = request.logprobs
        self._num_output_tokens = 0
        self._is_first = True

    def read(self, output: Any) -> GenerationChunk | None:
        """None for one that carries nothing. Raises EngineStepFailed for the engine's own failure of one request."""
        piece = output.outputs[0]
        if piece.finish_reason == "error":
            raise EngineStepFailed("vLLM failed on this request and goes on; it may be sent again")
        token_ids = tuple(piece.token_ids)
        self._num_output_tokens += len(token_ids)
        if not (token_ids or piece.text or piece.finish_reason):
            return None
        return GenerationChunk(
            text=piece.text,
            token_ids=token_ids,
            num_tokens=len(token_ids),
            logprobs=self._logprobs(token_ids, piece.logprobs),
            received_at=0.0,
            usage=self._usage(output) if piece.finish_reason else None,
            finish_reason=FinishReason(piece.finish_reason) if piece.finish_reason else None,
            stop_reason=piece.stop_reason,
            prompt=self._prompt(output),
        )

    def _usage(self, output: Any) -> Usage:
        return Usage(len(output.prompt_token_ids), self._num_output_tokens, output.num_cached_tokens)

    def _prompt(self, output: Any) -> PromptEcho | None:
        if not self._is_first:
            return None
        self._is_first = False
        token_ids = tuple(output.prompt_token_ids)
        if output.prompt_logprobs is None:
            return PromptEcho(token_ids)
        entries = zip(token_ids, output.prompt_logprobs, strict=True)
        return PromptEcho(
            token_ids, tuple(entry and _token_logprob(token_id, entry, None) for token_id, entry in entries)
        )

    def _logprobs(self, token_ids: tuple[int, ...], logprobs: Any) -> tuple[TokenLogprob, ...] | None:
        if logprobs is None or self._num_alternatives is None:
            return None
        pairs = zip(token_ids, logprobs, strict=False)
        return tuple(_token_logprob(token_id, entry, self._num_alternatives) for token_id, entry in pairs)


def _token_logprob(token_id: int, entry: Mapping[int, Any], num_alternatives: int | None) -> TokenLogprob:
    """The engine lists the chosen token beside the best where it is none of them."""
    own = entry[token_id]
    ranked = sorted(entry.items(), key=lambda item: -item[1].logprob)[:num_alternatives]
    alternatives = tuple(TokenAlternative(id, other.decoded_token or "", other.logprob) for id, other in ranked)
    return TokenLogprob(token_id, own.decoded_token or "", own.logprob, alternatives)
