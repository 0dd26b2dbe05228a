"""Requests of SGLang, and what it refuses. /generate knows its fields and takes no other."""

from __future__ import annotations

from typing import cast

from msgspec import Struct

from enginebay.testing.simulators.draw import Filters
from enginebay.testing.simulators.openai_body import ChatBody, CompletionBody, SamplingBody, biases_of
from enginebay.testing.simulators.request import SimulatedSampling
from enginebay.testing.simulators.vocabulary import Vocabulary

_MAX_STOP_STRINGS = 32


class Refusal(Exception):
    """Leaves a route; the wire answers with it. Never leaves a simulator."""

    def __init__(self, status: int, body: object) -> None:
        super().__init__(status)
        self.status, self.body = status, body


def native_refusal(message: str) -> Refusal:
    return Refusal(400, {"error": {"message": message}})


def openai_refusal(message: str, *, status: int = 400, kind: str = "BadRequestError") -> Refusal:
    return Refusal(status, {"object": "error", "message": message, "type": kind, "param": None, "code": status})


class SamplingParamsBody(Struct, kw_only=True, forbid_unknown_fields=True):
    max_new_tokens: int | None = 128
    min_new_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    stop_regex: str | list[str] | None = None
    ignore_eos: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    no_stop_trim: bool = False
    n: int = 1
    sampling_seed: int | None = None
    logit_bias: dict[str, float] | None = None
    json_schema: str | None = None
    regex: str | None = None
    ebnf: str | None = None


class GenerateBody(Struct, kw_only=True, forbid_unknown_fields=True):
    text: str | None = None
    input_ids: list[int] | None = None
    sampling_params: SamplingParamsBody | None = None
    stream: bool = False
    rid: str | None = None
    return_logprob: bool | None = None
    logprob_start_len: int | None = None
    top_logprobs_num: int | None = None
    return_text_in_logprobs: bool = False
    lora_path: str | None = None


class SglangChatBody(ChatBody, kw_only=True):
    no_stop_trim: bool = False


class SglangCompletionBody(CompletionBody, kw_only=True):
    no_stop_trim: bool = False


class TokenizeBody(Struct):
    prompt: str
    model: str = "default"
    add_special_tokens: bool = True


class DetokenizeBody(Struct):
    tokens: list[int]


def prompt_of(body: GenerateBody, vocabulary: Vocabulary) -> tuple[int, ...]:
    if (body.text is None) == (body.input_ids is None):
        raise native_refusal("Either text, input_ids or input_embeds should be provided.")
    if body.text is not None:
        return vocabulary.encode(body.text, adds_special_tokens=True)
    return tuple(cast("list[int]", body.input_ids))


def native_sampling(params: SamplingParamsBody, *, seeds_act: bool) -> SimulatedSampling:
    """Raises Refusal for what the engine's own checks refuse."""
    _check(params.temperature, params.top_p, params.top_k, params.repetition_penalty)
    stops = (params.stop,) if isinstance(params.stop, str) else tuple(params.stop or ())
    if len(stops) > _MAX_STOP_STRINGS:
        raise native_refusal(f"stop must have at most {_MAX_STOP_STRINGS} items, got {len(stops)}.")
    for field in ("json_schema", "regex", "ebnf", "stop_regex"):
        if getattr(params, field) is not None:
            raise Refusal(501, {"error": {"message": f"the simulator has no {field}"}})
    return SimulatedSampling(
        max_tokens=128 if params.max_new_tokens is None else params.max_new_tokens,
        temperature=params.temperature,
        filters=Filters(
            top_k=params.top_k, top_p=params.top_p, min_p=params.min_p, logit_bias=biases_of(params.logit_bias)
        ),
        seed=_seed(params.sampling_seed, seeds_act=seeds_act),
        stop=stops,
        include_stop=params.no_stop_trim,
        stop_token_ids=tuple(params.stop_token_ids or ()),
        ignore_eos=params.ignore_eos,
        min_tokens=params.min_new_tokens,
    )


def openai_sampling(body: SamplingBody, *, max_tokens: int, no_stop_trim: bool, seeds_act: bool) -> SimulatedSampling:
    temperature = 1.0 if body.temperature is None else body.temperature
    try:
        _check(temperature, body.top_p, body.top_k, body.repetition_penalty)
    except Refusal as refusal:
        message = cast("dict[str, dict[str, str]]", refusal.body)["error"]["message"]
        raise openai_refusal(message) from refusal
    return SimulatedSampling(
        max_tokens=max_tokens,
        temperature=temperature,
        filters=body.filters,
        seed=_seed(body.seed, seeds_act=seeds_act),
        stop=body.stops,
        include_stop=no_stop_trim,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
        min_tokens=body.min_tokens or 0,
    )


def _seed(given: int | None, *, seeds_act: bool) -> int | None:
    """Without deterministic inference a seed is taken and ignored; with it, a missing one is 42."""
    if not seeds_act:
        return None
    return 42 if given is None else given


def _check(temperature: float, top_p: float | None, top_k: int | None, repetition_penalty: float | None) -> None:
    if temperature < 0:
        raise native_refusal(f"temperature must be non-negative, got {temperature}.")
    if top_p is not None and not 0 < top_p <= 1:
        raise native_refusal(f"top_p must be in (0, 1], got {top_p}.")
    if top_k is not None and (top_k < -1 or top_k == 0):
        raise native_refusal(f"top_k must be -1 (disable), or at least 1, got {top_k}.")
    if repetition_penalty is not None and not 0 < repetition_penalty <= 2:
        raise native_refusal(f"repetition_penalty must be in (0, 2], got {repetition_penalty}.")
