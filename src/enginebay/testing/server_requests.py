"""The bodies that a `ScriptedServer` reads, as far as they shape its answers."""

from __future__ import annotations

from typing import Literal

import msgspec

from enginebay.testing.server_answers import Asked


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[dict[str, object]] | None = None


class _Body(msgspec.Struct):
    model: str | None = None
    prompt: str | list[object] | None = None
    messages: list[_Message] | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    return_token_ids: bool | None = None
    logprobs: bool | int | None = None
    top_logprobs: int | None = None


class _TokenizeBody(msgspec.Struct):
    prompt: str | None = None
    messages: list[_Message] | None = None


_decoder = msgspec.json.Decoder(_Body)
_tokenize_decoder = msgspec.json.Decoder(_TokenizeBody)
_DEFAULT_MAX_TOKENS = 16


def read_asked(body: bytes, form: Literal["completions", "chat"], *, default_model: str) -> Asked:
    """Raises msgspec.DecodeError for a body that is no such request."""
    asked = _decoder.decode(body)
    options = asked.stream_options or _StreamOptions()
    max_tokens = asked.max_completion_tokens or asked.max_tokens
    return Asked(
        form=form,
        model=asked.model or default_model,
        max_tokens=_DEFAULT_MAX_TOKENS if max_tokens is None else max_tokens,
        num_prompt_tokens=_num_tokens(asked.prompt, asked.messages),
        is_streamed=bool(asked.stream),
        include_usage=bool(options.include_usage),
        continuous_usage=bool(options.continuous_usage_stats),
        wants_token_ids=bool(asked.return_token_ids),
        num_logprobs=_num_logprobs(asked),
    )


def count_words(body: bytes) -> int:
    """Of a /tokenize body."""
    asked = _tokenize_decoder.decode(body)
    return _num_tokens(asked.prompt, asked.messages)


def _num_logprobs(asked: _Body) -> int | None:
    if asked.logprobs is None or asked.logprobs is False:
        return None
    return (asked.top_logprobs or 0) if asked.logprobs is True else asked.logprobs


def _num_tokens(prompt: str | list[object] | None, messages: list[_Message] | None) -> int:
    if isinstance(prompt, list):
        return len(prompt)
    texts = [prompt or ""] + [str(message.content) for message in messages or ()]
    return sum(len(text.split()) for text in texts)
