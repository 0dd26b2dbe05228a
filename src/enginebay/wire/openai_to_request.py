"""From a parsed body to requests of the protocol: defaults, fan-out of prompts and `n`, refusals by name.

Defaults are those of vLLM: 16 output tokens for a completion, the rest of the context for a chat; temperature 1.0,
every other sampling field off. They are written into the request, since engines differ in theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from enginebay.errors import InvalidRequest, UnsupportedFeature
from enginebay.request_checks import MAX_SEED
from enginebay.types import (
    BackendInfo,
    Chat,
    Feature,
    GenerationRequest,
    Prompt,
    SamplingParams,
    Text,
    TokenIds,
)
from enginebay.wire.openai_requests import (
    UNSERVED_CHAT_FIELDS,
    UNSERVED_COMPLETION_FIELDS,
    ChatBody,
    CompletionBody,
    GenerateBody,
)
from enginebay.wire.openai_response_format import response_format

DEFAULT_COMPLETION_TOKENS = 16
DEFAULT_TEMPERATURE = 1.0
MAX_STOP_STRINGS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom the requests are for."""

    info: BackendInfo
    max_choices: int
    """Bound on prompts times n of one body."""


def completion_requests(body: CompletionBody, target: Target, *, request_id: str) -> list[GenerationRequest]:
    """One for each prompt and choice; choice i of prompt p stands at p * n + i."""
    _refuse_unserved_completion_fields(body, target)
    prompts = completion_prompts(body)
    max_tokens = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    if max_tokens == 0 and not body.echo:
        raise InvalidRequest("max_tokens is 0: without echo there is nothing to answer", field="max_tokens")
    shared = _shared_request(
        body,
        target,
        prompt=prompts[0],
        max_tokens=max_tokens,
        request_id=request_id,
        logprobs=body.logprobs,
        prompt_logprobs=_prompt_logprobs(body, prompts, target),
    )
    return _fan_out(shared, prompts, body.n, target)


def _prompt_logprobs(body: CompletionBody, prompts: Sequence[Prompt], target: Target) -> int | None:
    """echo needs those of the prompt with logprobs, and also where the prompt's text is known by them alone."""
    if not body.echo:
        return body.prompt_logprobs
    if body.logprobs is not None:
        return max(body.logprobs, body.prompt_logprobs or 0)
    is_text_known = isinstance(prompts[0], Text) and body.truncate_prompt_tokens is None
    if is_text_known or Feature.PROMPT_LOGPROBS not in target.info.capabilities:
        return body.prompt_logprobs
    return body.prompt_logprobs or 0


def chat_requests(body: ChatBody, prompt: Chat, target: Target, *, request_id: str, max_tokens: int) -> list[
    GenerationRequest
]:  # fmt: skip
    """max_tokens: what `chat_max_tokens` gave, or the rest of the context."""
    _refuse_unserved_chat_fields(body, target)
    if body.top_logprobs and not body.logprobs:
        raise InvalidRequest("top_logprobs needs logprobs: true", field="top_logprobs")
    most = target.info.capabilities.max_logprobs
    if most is not None and (body.top_logprobs or 0) > most:
        raise InvalidRequest(
            f"top_logprobs is {body.top_logprobs}, the most that backend {target.info.name!r} gives is {most}",
            field="top_logprobs",
        )
    if max_tokens == 0:
        raise InvalidRequest("max_tokens must be at least 1 for a chat", field="max_tokens")
    shared = _shared_request(
        body,
        target,
        prompt=prompt,
        max_tokens=max_tokens,
        request_id=request_id,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs,
    )
    return _fan_out(shared, [prompt], body.n, target)


def chat_max_tokens(body: ChatBody) -> int | None:
    """None asks for the rest of the context."""
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        raise InvalidRequest(
            f"max_tokens is {old} and max_completion_tokens is {new}: give one of them", field="max_completion_tokens"
        )
    return old if new is None else new


def generate_request(body: GenerateBody, *, request_id: str) -> GenerationRequest:
    return GenerationRequest(
        request_id=request_id,
        prompt=Text(body.prompt),
        sampling=SamplingParams(max_tokens=body.max_tokens, temperature=body.temperature, top_p=body.top_p),
        delivery="final",
    )


def completion_prompts(body: CompletionBody) -> list[Prompt]:
    add_special_tokens = body.add_special_tokens is not False
    if isinstance(body.prompt, str):
        return [Text(body.prompt, add_special_tokens)]
    if not body.prompt:
        raise InvalidRequest("prompt is an empty list", field="prompt")
    token_ids = [item for item in body.prompt if isinstance(item, int)]
    if len(token_ids) == len(body.prompt):
        return [TokenIds(tuple(token_ids))]
    texts = [Text(item, add_special_tokens) for item in body.prompt if isinstance(item, str)]
    if len(texts) == len(body.prompt):
        return [*texts]
    lists = [TokenIds(tuple(item)) for item in body.prompt if isinstance(item, list)]
    if len(lists) == len(body.prompt):
        return [*lists]
    raise InvalidRequest("prompt mixes texts, token ids and lists: use one kind", field="prompt")


def _shared_request(
    body: CompletionBody | ChatBody,
    target: Target,
    *,
    prompt: Prompt,
    max_tokens: int,
    request_id: str,
    logprobs: int | None,
    prompt_logprobs: int | None,
) -> GenerationRequest:
    _check_delivery(body)
    return GenerationRequest(
        request_id=request_id,
        prompt=prompt,
        sampling=_sampling(body, target, max_tokens=max_tokens),
        response_format=response_format(body.response_format, body.structured_outputs, backend=target.info),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        truncate_prompt_tokens=body.truncate_prompt_tokens,
        priority=body.priority or 0,
        cache_salt=body.cache_salt,
        delivery="stream" if body.stream else "final",
    )


def _sampling(body: CompletionBody | ChatBody, target: Target, *, max_tokens: int) -> SamplingParams:
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=DEFAULT_TEMPERATURE if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        top_k=0 if body.top_k in (None, -1) else body.top_k,
        min_p=body.min_p or 0.0,
        repetition_penalty=1.0 if body.repetition_penalty is None else body.repetition_penalty,
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=body.logit_bias or {},
        stop=_stop(body.stop),
        include_stop_str_in_output=bool(body.include_stop_str_in_output),
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        min_tokens=body.min_tokens or 0,
        seed=None if body.seed == -1 else body.seed,
        skip_special_tokens=_skips_special_tokens(body, target),
    )


def _stop(stop: str | Sequence[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if len(strings) > MAX_STOP_STRINGS:
        raise InvalidRequest(f"{len(strings)} stop strings; at most {MAX_STOP_STRINGS} are taken", field="stop")
    return strings


def _skips_special_tokens(body: CompletionBody | ChatBody, target: Target) -> bool:
    """spaces_between_special_tokens says something only where special tokens are kept; there spaces are written."""
    skips = body.skip_special_tokens is not False
    if not skips and body.spaces_between_special_tokens is False:
        raise UnsupportedFeature(
            field="spaces_between_special_tokens", backend=target.info.name, detail="spaces are always written"
        )
    return skips


def _check_delivery(body: CompletionBody | ChatBody) -> None:
    if body.stream_options is not None:
        if not body.stream:
            raise InvalidRequest("stream_options needs stream: true", field="stream_options")
        if body.stream_options.include_obfuscation:
            raise InvalidRequest("obfuscation cannot be had", field="stream_options.include_obfuscation")
    if body.stream and body.prompt_logprobs is not None:
        raise InvalidRequest("prompt_logprobs cannot be streamed", field="prompt_logprobs")
    if body.stream_interval is not None and body.stream_interval < 1:
        raise InvalidRequest(f"stream_interval must be at least 1, not {body.stream_interval}", field="stream_interval")


def _refuse_unserved_completion_fields(body: CompletionBody, target: Target) -> None:
    n = 1 if body.n is None else body.n
    neutral = {"best_of": (None, n), "suffix": (None, "")}
    for field in UNSERVED_COMPLETION_FIELDS:
        if getattr(body, field) not in neutral[field]:
            raise UnsupportedFeature(field=field, backend=target.info.name)
    _refuse_token_ids_that_cannot_be_had(body, target)


def _refuse_unserved_chat_fields(body: ChatBody, target: Target) -> None:
    for field in UNSERVED_CHAT_FIELDS:
        if getattr(body, field) is not None:
            raise UnsupportedFeature(field=field, backend=target.info.name)
    if body.echo:
        raise UnsupportedFeature(field="echo", backend=target.info.name, detail="a chat is not echoed")
    _refuse_token_ids_that_cannot_be_had(body, target)


def _refuse_token_ids_that_cannot_be_had(body: CompletionBody | ChatBody, target: Target) -> None:
    if body.return_token_ids and Feature.OUTPUT_TOKEN_IDS not in target.info.capabilities:
        raise UnsupportedFeature(field="return_token_ids", backend=target.info.name)


def _fan_out(
    shared: GenerationRequest, prompts: Sequence[Prompt], n: int | None, target: Target
) -> list[GenerationRequest]:
    n = 1 if n is None else n
    if n < 1:
        raise InvalidRequest(f"n must be at least 1, not {n}", field="n")
    if n * len(prompts) > target.max_choices:
        raise InvalidRequest(
            f"{len(prompts)} prompts with n = {n} are {n * len(prompts)} answers; at most {target.max_choices} are "
            "given to one request",
            field="n" if n > 1 else "prompt",
        )
    if n * len(prompts) == 1:
        return [shared]
    return [
        replace(
            shared,
            request_id=f"{shared.request_id}-{index}",
            prompt=prompts[index // n],
            sampling=_with_seed_of_choice(shared.sampling, index % n),
        )
        for index in range(n * len(prompts))
    ]


def _with_seed_of_choice(sampling: SamplingParams, choice: int) -> SamplingParams:
    """Choices of one prompt must differ: choice i takes seed + i, and past the greatest seed goes on at the least."""
    if sampling.seed is None or choice == 0:
        return sampling
    seed = sampling.seed + choice
    return replace(sampling, seed=seed if seed <= MAX_SEED else seed - 2 * MAX_SEED - 1)
