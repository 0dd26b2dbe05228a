"""The fields of OpenAI requests as vLLM reads them; wires of like engines derive their own from these."""

from __future__ import annotations

from typing import cast

from msgspec import Struct

from enginebay.testing.simulators.draw import Filters
from enginebay.testing.simulators.vocabulary import Vocabulary

Prompt = str | list[str | int | list[int]]
"""A text, several, token ids, or several lists of them; a mixture is not told apart here."""


class StreamOptions(Struct):
    include_usage: bool | None = False
    continuous_usage_stats: bool | None = False


class SamplingBody(Struct, kw_only=True):
    """Unknown fields are ignored by msgspec; null means the default."""

    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int | None = 0
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    include_stop_str_in_output: bool | None = False
    ignore_eos: bool | None = False
    n: int | None = 1
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    stream_interval: int | None = None
    return_token_ids: bool | None = None
    return_tokens_as_token_ids: bool | None = None
    prompt_logprobs: int | None = None
    truncate_prompt_tokens: int | None = None
    add_special_tokens: bool | None = None
    cache_salt: str | None = None
    request_id: str | None = None
    response_format: dict[str, object] | None = None
    structured_outputs: dict[str, object] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def filters(self) -> Filters:
        return Filters(
            top_k=self.top_k or 0,
            top_p=1.0 if self.top_p is None else self.top_p,
            min_p=self.min_p or 0.0,
            logit_bias=biases_of(self.logit_bias),
        )


def biases_of(given: dict[str, float] | None) -> dict[int, float] | None:
    """By token id; names that are no number bias nothing."""
    return {int(name): bias for name, bias in given.items() if name.isdecimal()} if given else None


class CompletionBody(SamplingBody, kw_only=True):
    prompt: Prompt
    logprobs: int | None = None
    echo: bool | None = False


class ChatBody(SamplingBody, kw_only=True):
    messages: list[dict[str, object]]
    max_completion_tokens: int | None = None
    logprobs: bool | None = False
    top_logprobs: int | None = 0
    tools: list[dict[str, object]] | None = None
    tool_choice: str | dict[str, object] | None = None


class TokenizeBody(Struct):
    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, object]] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = False


class DetokenizeBody(Struct):
    tokens: list[int]
    model: str | None = None


class MixedPrompt(ValueError):
    """A list of different things: no engine takes it."""


def prompts_in(prompt: Prompt, vocabulary: Vocabulary, *, adds_special_tokens: bool) -> list[tuple[int, ...]]:
    """Token ids as they are, texts as the vocabulary reads them. An empty list is an empty prompt.

    Raises MixedPrompt.
    """
    if isinstance(prompt, list) and len({type(part) for part in prompt}) > 1:
        raise MixedPrompt("the prompt must be a string, a list of strings, of token ids, or of lists of token ids")
    match prompt:
        case str(text):
            return [vocabulary.encode(text, adds_special_tokens=adds_special_tokens)]
        case [str(), *_] as texts:
            return [vocabulary.encode(cast(str, text), adds_special_tokens=adds_special_tokens) for text in texts]
        case [list(), *_] as lists:
            return [tuple(cast("list[int]", ids)) for ids in lists]
        case ids:
            return [tuple(cast("list[int]", ids))]
