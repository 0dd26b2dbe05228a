"""A request in the engine's own terms."""

from __future__ import annotations

from collections.abc import Iterable

from enginebay.engine.request import EngineRequest
from enginebay.errors import InvalidRequest
from enginebay.types import GenerationRequest, TokenIds


def engine_request(
    request: GenerationRequest, token_ids: list[int], *, request_id: str, seed: int, arrived_at: float
) -> EngineRequest:
    """request_id: unique in the engine, which a client's own id need not be."""
    sampling = request.sampling
    return EngineRequest(
        request_id=request_id,
        prompt_token_ids=token_ids,
        max_tokens=sampling.max_tokens,
        seed=seed,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p,
        repetition_penalty=sampling.repetition_penalty,
        presence_penalty=sampling.presence_penalty,
        frequency_penalty=sampling.frequency_penalty,
        logit_bias=dict(sampling.logit_bias),
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=sampling.ignore_eos,
        min_tokens=sampling.min_tokens,
        num_logprobs=request.logprobs,
        num_prompt_logprobs=request.prompt_logprobs,
        priority=request.priority,
        resume_token_ids=list(request.resume_token_ids),
        arrived_at=arrived_at,
        deadline_at=request.deadline_at,
        has_stop_strings=bool(sampling.stop),
        cache_salt=request.cache_salt or "",
    )


def refuse_impossible(request: GenerationRequest, *, vocab_size: int) -> None:
    """Raise InvalidRequest for token ids that the model doesn't have, and for a resumed output with nothing left."""
    if isinstance(request.prompt, TokenIds):
        _demand_known(request.prompt.token_ids, vocab_size, field="prompt")
    _demand_known(request.resume_token_ids, vocab_size, field="resume_token_ids")
    _demand_known(request.sampling.stop_token_ids, vocab_size, field="stop_token_ids")
    _demand_known(request.sampling.logit_bias, vocab_size, field="logit_bias")
    num_resumed = len(request.resume_token_ids)
    if num_resumed and num_resumed >= request.sampling.max_tokens:
        raise InvalidRequest(
            f"{num_resumed} tokens are resumed and max_tokens is {request.sampling.max_tokens}: nothing is left to do",
            field="resume_token_ids",
        )


def _demand_known(token_ids: Iterable[int], vocab_size: int, *, field: str) -> None:
    for token_id in token_ids:
        if not 0 <= token_id < vocab_size:
            raise InvalidRequest(f"token id {token_id} is outside the vocabulary of {vocab_size} tokens", field=field)
