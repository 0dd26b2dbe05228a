"""What a request asks for, and whether that is sound and within what a backend can do.

One place for all backends, so that no adapter drops a field silently or words a refusal differently.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from operator import attrgetter

from enginebay.errors import InvalidRequest, UnsupportedFeature
from enginebay.request_texts import check_prompt_texts, check_texts
from enginebay.request_types import check_prompt_types, check_types
from enginebay.types import (
    BackendInfo,
    Chat,
    Feature,
    GenerationRequest,
    ImagePart,
    Prompt,
    SamplingParams,
    Text,
    TokenIds,
)

MAX_INTEGER = 2**63 - 1
"""Of every integer field: engines hold them in 64 bits."""
MAX_SEED = MAX_INTEGER
MAX_TEMPERATURE = 100.0
MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY = 0.01, 100.0
"""Logits are multiplied or divided by it: within these bounds they stay finite in float32."""
MAX_LOGIT_BIAS = 100.0
"""As in the OpenAI API."""
RESERVED_TEMPLATE_KWARGS = frozenset(
    {
        "add_generation_prompt", "add_special_tokens", "chat_template", "continue_final_message", "conversation",
        "messages", "tokenize", "tool_choice", "tools",
    }
)  # fmt: skip
"""What a chat template is rendered with, or how: fields of the request itself say these."""


def check_request(request: GenerationRequest, info: BackendInfo) -> None:
    """Raise InvalidRequest or UnsupportedFeature, naming the field, or return."""
    capabilities = info.capabilities
    if _is_neutral(request):  # as most are: a few comparisons instead of a hundred
        check_prompt_types(request.prompt)
        check_prompt_texts(request.prompt)
        _check_prompt_values(request.prompt)
        features = _prompt_features(request)
    else:
        check_types(request)
        check_texts(request)
        _check_values(request)
        _check_sampling(request.sampling)
        features = required_features(request)
    for feature in features:
        if feature not in capabilities.features:
            raise UnsupportedFeature(field=_field_of(feature, request), backend=info.name)
    if capabilities.max_logprobs is not None:
        for field in ("logprobs", "prompt_logprobs"):
            if (getattr(request, field) or 0) > capabilities.max_logprobs:
                raise InvalidRequest(
                    f"{field} is {getattr(request, field)}, the most that backend {info.name!r} gives is "
                    f"{capabilities.max_logprobs}",
                    field=field,
                )
    limit = capabilities.max_stop_strings
    if limit is not None and len(request.sampling.stop) > limit:
        raise InvalidRequest(f"backend {info.name!r} takes at most {limit} stop strings", field="stop")
    limit = capabilities.max_temperature
    if limit is not None and request.sampling.temperature > limit:
        raise InvalidRequest(f"backend {info.name!r} takes a temperature of at most {limit}", field="temperature")


_features_of_sampling = attrgetter(
    "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "logit_bias", "stop",
    "stop_token_ids", "ignore_eos", "min_tokens", "seed", "skip_special_tokens",
)  # fmt: skip
_features_of_request = attrgetter(
    "logprobs", "prompt_logprobs", "truncate_prompt_tokens", "priority", "deadline_at", "cache_salt", "adapter",
    "response_format", "resume_token_ids",
)  # fmt: skip
_NEUTRAL_SAMPLING = _features_of_sampling(SamplingParams(max_tokens=1))
_NEUTRAL_REQUEST = (None, None, None, 0, None, None, None, None, ())
_KINDS_OF_NEUTRAL_SAMPLING = tuple(map(type, _NEUTRAL_SAMPLING))
_KINDS_OF_NEUTRAL_REQUEST = tuple(map(type, _NEUTRAL_REQUEST))


def _is_neutral(request: GenerationRequest) -> bool:
    """Whether it is sound, and all but its prompt is within what every backend can do. False says nothing."""
    sampling = request.sampling
    if type(sampling) is not SamplingParams:
        return False
    values, others = _features_of_sampling(sampling), _features_of_request(request)
    # kinds first: an array, which is none of them, cannot be compared with what is
    if tuple(map(type, values)) != _KINDS_OF_NEUTRAL_SAMPLING or values != _NEUTRAL_SAMPLING:
        return False
    if tuple(map(type, others)) != _KINDS_OF_NEUTRAL_REQUEST or others != _NEUTRAL_REQUEST:
        return False
    return (
        type(sampling.max_tokens) is int
        and 0 < sampling.max_tokens <= MAX_INTEGER
        and type(sampling.temperature) in (float, int)
        and 0 <= sampling.temperature <= MAX_TEMPERATURE
        and type(sampling.top_p) in (float, int)
        and 0 < sampling.top_p <= 1
        and sampling.include_stop_str_in_output is False
        and type(request.request_id) is str
        and request.request_id.isascii()
        and request.session_key is None
        and request.delivery in ("stream", "final")
    )


def required_features(request: GenerationRequest) -> Iterator[Feature]:
    """Every feature that this request makes use of; a field at its neutral value asks for nothing."""
    yield from _prompt_features(request)
    sampling = request.sampling
    asked = (
        (Feature.TOP_K, sampling.top_k > 0),
        (Feature.MIN_P, sampling.min_p > 0),
        (Feature.REPETITION_PENALTY, sampling.repetition_penalty != 1.0),
        (Feature.PRESENCE_PENALTY, sampling.presence_penalty != 0.0),
        (Feature.FREQUENCY_PENALTY, sampling.frequency_penalty != 0.0),
        (Feature.LOGIT_BIAS, bool(sampling.logit_bias)),
        (Feature.STOP, bool(sampling.stop)),
        (Feature.STOP_IN_OUTPUT, sampling.include_stop_str_in_output and bool(sampling.stop)),
        (Feature.STOP_TOKEN_IDS, bool(sampling.stop_token_ids)),
        (Feature.IGNORE_EOS, sampling.ignore_eos),
        (Feature.MIN_TOKENS, sampling.min_tokens > 0),
        (Feature.SEED, sampling.seed is not None),
        (Feature.KEEP_SPECIAL_TOKENS, not sampling.skip_special_tokens),
        (Feature.LOGPROBS, request.logprobs is not None),
        (Feature.PROMPT_LOGPROBS, request.prompt_logprobs is not None),
        (Feature.TRUNCATE_PROMPT, request.truncate_prompt_tokens is not None),
        (Feature.PRIORITY, request.priority != 0),
        (Feature.DEADLINE, request.deadline_at is not None),
        (Feature.CACHE_SALT, request.cache_salt is not None),
        (Feature.ADAPTER, request.adapter is not None),
        (Feature.RESPONSE_FORMAT, request.response_format is not None and request.response_format.type != "text"),
        (Feature.RESUME, bool(request.resume_token_ids)),
        (Feature.PREFILL_ONLY, sampling.max_tokens == 0),
    )
    yield from (feature for feature, is_asked in asked if is_asked)


def _prompt_features(request: GenerationRequest) -> Iterator[Feature]:
    prompt = request.prompt
    if isinstance(prompt, Text):
        yield Feature.TEXT_PROMPT
    elif isinstance(prompt, TokenIds):
        yield Feature.TOKEN_PROMPT
    else:
        yield Feature.CHAT
        yield from _chat_features(prompt)


def _field_of(feature: Feature, request: GenerationRequest) -> str:
    """The feature's own field, or the place in a message that makes use of tools where none are offered."""
    if feature is Feature.TOOLS and isinstance(request.prompt, Chat) and not request.prompt.tools:
        return next(_tool_fields(request.prompt))
    return feature.value


def _tool_fields(chat: Chat) -> Iterator[str]:
    for index, message in enumerate(chat.messages):
        if message.tool_calls:
            yield f"messages[{index}].tool_calls"
        if message.tool_call_id is not None:
            yield f"messages[{index}].tool_call_id"


def _chat_features(chat: Chat) -> Iterator[Feature]:
    if chat.tools or any(_tool_fields(chat)):
        yield Feature.TOOLS
    if chat.template_kwargs:
        yield Feature.TEMPLATE_KWARGS
    if chat.template is not None:
        yield Feature.CHAT_TEMPLATE
    if chat.continue_final_message:
        yield Feature.CONTINUE_FINAL_MESSAGE
    for message in chat.messages:
        if isinstance(message.content, tuple) and any(isinstance(part, ImagePart) for part in message.content):
            yield Feature.IMAGES
            return


def _check_prompt_values(prompt: Prompt) -> None:
    if isinstance(prompt, TokenIds):
        if not prompt.token_ids:
            raise InvalidRequest("the prompt has no tokens", field="prompt")
        _check_token_ids("prompt", prompt.token_ids)
    if isinstance(prompt, Chat):
        _check_chat(prompt)


def _check_values(request: GenerationRequest) -> None:
    _check_prompt_values(request.prompt)
    for field, low in (("logprobs", 0), ("prompt_logprobs", 0), ("truncate_prompt_tokens", 1)):
        value = getattr(request, field)
        if value is not None:
            _check_number(field, value, low, MAX_INTEGER)
    _check_number("priority", request.priority, -MAX_INTEGER, MAX_INTEGER)
    _check_token_ids("resume_token_ids", request.resume_token_ids)


def _check_chat(chat: Chat) -> None:
    if not chat.messages:
        raise InvalidRequest("there are no messages", field="messages")
    reserved = sorted(RESERVED_TEMPLATE_KWARGS & chat.template_kwargs.keys())
    if reserved:
        raise InvalidRequest(
            f"chat_template_kwargs may not set {', '.join(reserved)}: the request has fields of its own for them",
            field="chat_template_kwargs",
        )


def _check_sampling(sampling: SamplingParams) -> None:
    _check_number("max_tokens", sampling.max_tokens, 0, MAX_INTEGER)
    _check_number("temperature", sampling.temperature, 0, MAX_TEMPERATURE)
    _check_number("top_p", sampling.top_p, 0, 1, open_below=True)
    _check_number("min_p", sampling.min_p, 0, 1)
    _check_number("top_k", sampling.top_k, 0, MAX_INTEGER)
    _check_number("repetition_penalty", sampling.repetition_penalty, MIN_REPETITION_PENALTY, MAX_REPETITION_PENALTY)
    _check_number("presence_penalty", sampling.presence_penalty, -2, 2)
    _check_number("frequency_penalty", sampling.frequency_penalty, -2, 2)
    _check_number("min_tokens", sampling.min_tokens, 0, MAX_INTEGER)
    if sampling.min_tokens > sampling.max_tokens:
        raise InvalidRequest(
            f"min_tokens ({sampling.min_tokens}) is more than max_tokens ({sampling.max_tokens})", field="min_tokens"
        )
    if sampling.seed is not None:
        _check_number("seed", sampling.seed, -MAX_SEED, MAX_SEED)
    if any(not stop for stop in sampling.stop):
        raise InvalidRequest("a stop string is empty", field="stop")
    _check_token_ids("stop_token_ids", sampling.stop_token_ids)
    _check_token_ids("logit_bias", sampling.logit_bias)
    for bias in sampling.logit_bias.values():
        _check_number("logit_bias", bias, -MAX_LOGIT_BIAS, MAX_LOGIT_BIAS)


def _check_token_ids(field: str, token_ids: Collection[int]) -> None:
    if token_ids and not (min(token_ids) >= 0 and max(token_ids) <= MAX_INTEGER):
        raise InvalidRequest(f"{field}: a token id is negative or beyond 64 bits", field=field)


def _check_number(field: str, value: float, low: float, high: float, *, open_below: bool = False) -> None:
    """Comparisons alone: an integer may be too large to be made a float."""
    if not (value <= high and (value > low if open_below else value >= low)):
        bounds = f"{'more than' if open_below else 'at least'} {_shown(low)} and at most {_shown(high)}"
        raise InvalidRequest(f"{field} must be {bounds}, not {_shown(value)}", field=field)


def _shown(value: float) -> str:
    """Python refuses to write out an integer of thousands of digits."""
    if isinstance(value, int):
        return str(value) if abs(value) < 2**128 else f"an integer of {value.bit_length()} bits"
    return f"{value:g}"
