"""Requests to trtllm-serve. A field that it does not know fails the request; null stands for the default."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from enginebay.testing.simulators.draw import Filters
from enginebay.testing.simulators.exchange import UNREADABLE, HttpRequest
from enginebay.testing.simulators.openai_answer import Json
from enginebay.testing.simulators.openai_body import biases_of
from enginebay.testing.simulators.request import SimulatedSampling
from enginebay.testing.simulators.wires.tensorrt_llm.flags import Release

FIXED_SEED = 0
"""Of every request that brings none: two of them are answered alike."""
T = TypeVar("T", bound=msgspec.Struct)


class Refusal(Exception):
    """Leaves a route; the wire answers 400 with it. Never leaves a simulator."""

    def __init__(self, message: str, *, is_schema: bool = False) -> None:
        super().__init__(message)
        self.message, self.is_schema = message, is_schema


def error_body(message: str, *, release: Release = "1.2", is_schema: bool = False) -> Json:
    """A flat object, but for schema errors from line 1.3 on."""
    if is_schema and release != "1.2":
        return {"error": message}
    return {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": 400}


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool | None = True
    """Unlike OpenAI's."""
    continuous_usage_stats: bool | None = False


class Body(Struct, kw_only=True, forbid_unknown_fields=True):
    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int = 0
    min_p: float = 0.0
    top_p_min: float = 0.0
    n: int = 1
    best_of: int | None = None
    use_beam_search: bool = False
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    min_tokens: int = 0
    repetition_penalty: float = 1.0
    frequency_penalty: float | None = 0.0
    presence_penalty: float | None = 0.0
    length_penalty: float | None = 1.0
    early_stopping: bool = False
    logit_bias: dict[str, float] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    detokenize: bool = True
    truncate_prompt_tokens: int | None = None
    response_format: dict[str, Any] | None = None
    lora_request: dict[str, Any] | None = None
    disaggregated_params: dict[str, Any] | None = None
    user: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionBody(Body, kw_only=True, forbid_unknown_fields=True):
    prompt: str | list[str | int | list[int]]
    logprobs: int | None = None
    echo: bool | None = False
    suffix: str | None = None
    add_special_tokens: bool = True
    return_context_logits: bool = False


class ChatBody(Body, kw_only=True, forbid_unknown_fields=True):
    messages: list[dict[str, Any]]
    prompt_token_ids: list[int] | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    add_special_tokens: bool = False
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = "none"
    cache_salt: str | None = None


class TokenizeBody(Struct, forbid_unknown_fields=True):
    prompt: str
    model: str | None = None


def read_body(request: HttpRequest, form: type[T]) -> T:
    try:
        return msgspec.json.decode(request.body, type=form)
    except UNREADABLE as error:
        raise Refusal(str(error), is_schema=True) from error


def check_body(body: Body, *, release: Release, has_guided_decoding: bool) -> None:
    """Raises Refusal."""
    if body.stream_options is not None and not body.stream:
        raise Refusal("Stream options can only be defined when stream is true.", is_schema=True)
    if isinstance(body, CompletionBody):
        if body.logprobs is not None and release != "1.4":
            raise Refusal("logprobs is not supported")
        if body.suffix is not None:
            raise Refusal("suffix is not supported", is_schema=True)
        if body.echo:
            raise Refusal("echo is not simulated")
    wants_format = body.response_format is not None and body.response_format.get("type") != "text"
    if wants_format and not has_guided_decoding:
        raise Refusal("guided decoding is not enabled: set guided_decoding_backend")
    if body.max_tokens is not None and body.max_tokens < 1:
        raise Refusal(f"max_tokens must be positive, got {body.max_tokens}")
    if body.temperature is not None and body.temperature < 0:
        raise Refusal(f"require temperature >= 0, got temperature={body.temperature}")
    if body.top_p is not None and not 0 <= body.top_p <= 1:
        raise Refusal(f"require 0 <= top_p <= 1, got top_p={body.top_p}")
    if body.n < 1:
        raise Refusal(f"require n >= 1, got n={body.n}")
    if body.use_beam_search or (body.best_of or body.n) > body.n:
        raise Refusal("beam search is not simulated")


def sampling_of(body: Body, max_tokens: int) -> SimulatedSampling:
    return SimulatedSampling(
        max_tokens=max_tokens,
        temperature=1.0 if body.temperature is None else body.temperature,
        filters=Filters(
            top_k=body.top_k,
            top_p=1.0 if body.top_p is None else body.top_p,
            min_p=body.min_p,
            logit_bias=biases_of(body.logit_bias),
        ),
        seed=FIXED_SEED if body.seed is None else body.seed,
        stop=body.stops,
        include_stop=body.include_stop_str_in_output,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        ignore_eos=body.ignore_eos,
        min_tokens=body.min_tokens,
    )
