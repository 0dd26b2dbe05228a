"""Requests of llama-server's native routes. Unknown fields are ignored."""

from __future__ import annotations

from typing import cast

from msgspec import Struct

from enginebay.testing.simulators import tokens
from enginebay.testing.simulators.draw import Filters
from enginebay.testing.simulators.openai_body import ChatBody, biases_of
from enginebay.testing.simulators.request import SimulatedSampling
from enginebay.testing.simulators.vocabulary import Vocabulary

_SAMPLERS = ("top_k", "top_p", "min_p")
_FORBIDDEN = -1e9
Biases = list[tuple[int | str, float | bool]] | dict[str, float]
"""Pairs or an object; `false` forbids a token, and a text stands for each of its tokens."""


class Refusal(Exception):
    """Leaves a route; the wire answers with it. Never leaves a simulator."""

    def __init__(self, status: int, message: str, kind: str, **more: int) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"code": status, "message": message, "type": kind, **more}}


class NativeBody(Struct, kw_only=True):
    prompt: str | list[str | int | list[int]]
    n_predict: int | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool = False
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    seed: int = -1
    stop: str | list[str] = []
    ignore_eos: bool = False
    return_tokens: bool = False
    n_probs: int = 0
    logit_bias: Biases | None = None
    samplers: list[str] | None = None

    @property
    def num_predict(self) -> int:
        given = (self.n_predict, self.max_completion_tokens, self.max_tokens)
        return next((value for value in given if value is not None), -1)


class LlamaChatBody(ChatBody, kw_only=True):
    """`/v1/chat/completions`: the OpenAI fields, and the native ones beside them."""

    # The defaults of the native routes hold here too.
    temperature: float | None = 0.8
    top_k: int | None = 40
    top_p: float | None = 0.95
    min_p: float | None = 0.05
    logit_bias: Biases | None = None  # type: ignore[assignment] - wider than OpenAI's
    samplers: list[str] | None = None
    timings_per_token: bool = False
    repeat_penalty: float = 1.0
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, object] | None = None


class TokenizeBody(Struct):
    content: str
    add_special: bool = False


class DetokenizeBody(Struct):
    tokens: list[int]


class TemplateBody(Struct):
    messages: list[dict[str, object]]


def prompt_ids(body: NativeBody, vocabulary: Vocabulary) -> tuple[int, ...]:
    """Texts get the begin token of the vocabulary, token ids are used as they are. May be empty: `[[]]`."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return vocabulary.encode(prompt, adds_special_tokens=True)
    if not prompt:
        raise Refusal(400, '"prompt" must not be empty', "invalid_request_error")
    if any(isinstance(part, list) for part in prompt):
        [prompt, *others] = (part if isinstance(part, list) else [part] for part in prompt)
        if others:
            raise Refusal(501, "simulated: one prompt in each request", "not_supported_error")
    ids: list[int] = []
    for part in prompt:
        ids += vocabulary.encode(part, adds_special_tokens=False) if isinstance(part, str) else [cast(int, part)]
    if any(not 0 <= token_id < vocabulary.size for token_id in ids):
        raise Refusal(400, "Prompt contains invalid tokens", "invalid_request_error")
    return tuple(ids)


def sampling_of(body: NativeBody, *, num_predict: int) -> SimulatedSampling:
    return SimulatedSampling(
        max_tokens=num_predict,
        temperature=body.temperature,
        filters=filters_of(body),
        seed=None if body.seed == -1 else body.seed,
        stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop),
        ignore_eos=body.ignore_eos,
    )


def filters_of(body: NativeBody | LlamaChatBody) -> Filters:
    """Without `samplers` all of them are applied, else the ones that it names; null is the default."""
    named = _SAMPLERS if body.samplers is None else body.samplers
    top_k, top_p, min_p = body.top_k, body.top_p, body.min_p
    return Filters(
        top_k=0 if "top_k" not in named else 40 if top_k is None else top_k,
        top_p=1.0 if "top_p" not in named else 0.95 if top_p is None else top_p,
        min_p=0.0 if "min_p" not in named else 0.05 if min_p is None else min_p,
        logit_bias=_biases_by_id(body.logit_bias),
    )


def _biases_by_id(given: Biases | None) -> dict[int, float] | None:
    if isinstance(given, dict):
        return biases_of(given)
    biases: dict[int, float] = {}
    for token, bias in given or ():
        ids = tokens.encode(token) if isinstance(token, str) else (token,)
        biases.update(dict.fromkeys(ids, _FORBIDDEN if bias is False else float(bias)))
    return biases or None
