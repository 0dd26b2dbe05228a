"""Log-probabilities in the three forms of the OpenAI APIs: completions, chat, and vLLM's `prompt_logprobs`."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from enginebay.types import PromptEcho, TokenAlternative, TokenLogprob


class CompletionLogprobs(msgspec.Struct):
    """Parallel lists; `text_offset` counts characters from the start of the choice's text."""

    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class ChatTopLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprob(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[ChatTopLogprob]


class ChatLogprobs(msgspec.Struct):
    content: list[ChatTokenLogprob]
    refusal: None = None


class PromptLogprob(msgspec.Struct):
    logprob: float
    rank: int | None
    """1 is the most likely; None for the prompt's own token where it is not among the alternatives."""
    decoded_token: str


def token_name(entry: TokenLogprob | TokenAlternative, *, as_id: bool) -> str:
    return f"token_id:{entry.token_id}" if as_id and entry.token_id is not None else entry.token


def completion_logprobs(
    entries: Sequence[TokenLogprob | None], tokens: Sequence[str], *, offset: int, as_ids: bool
) -> CompletionLogprobs:
    """tokens: their text, in step with `entries`; an entry is None for a prompt's first token."""
    form = CompletionLogprobs([], [], [], [])
    for entry, token in zip(entries, tokens, strict=True):
        form.text_offset.append(offset)
        offset += len(token)
        form.tokens.append(token if entry is None else token_name(entry, as_id=as_ids))
        form.token_logprobs.append(None if entry is None else entry.logprob)
        form.top_logprobs.append(None if entry is None else _top(entry, as_ids=as_ids))
    return form


def _top(entry: TokenLogprob, *, as_ids: bool) -> dict[str, float]:
    """The alternatives, and the chosen token where it is not one of them: up to k + 1 entries."""
    top = {token_name(other, as_id=as_ids): other.logprob for other in entry.alternatives}
    top.setdefault(token_name(entry, as_id=as_ids), entry.logprob)
    return top


def chat_logprobs(entries: Sequence[TokenLogprob], *, as_ids: bool) -> ChatLogprobs:
    return ChatLogprobs([_chat_entry(entry, as_ids=as_ids) for entry in entries])


def _chat_entry(entry: TokenLogprob, *, as_ids: bool) -> ChatTokenLogprob:
    return ChatTokenLogprob(
        token=token_name(entry, as_id=as_ids),
        logprob=entry.logprob,
        bytes=list(entry.token.encode()),
        top_logprobs=[
            ChatTopLogprob(token_name(other, as_id=as_ids), other.logprob, list(other.token.encode()))
            for other in entry.alternatives
        ],
    )


def prompt_logprobs(echo: PromptEcho | None) -> list[dict[int, PromptLogprob] | None] | None:
    if echo is None or echo.logprobs is None:
        return None
    return [None if entry is None else _ranked(entry) for entry in echo.logprobs]


def _ranked(entry: TokenLogprob) -> dict[int, PromptLogprob]:
    ranked = {
        other.token_id: PromptLogprob(other.logprob, rank, other.token)
        for rank, other in enumerate(entry.alternatives, start=1)
        if other.token_id is not None
    }
    if entry.token_id is not None:
        ranked.setdefault(entry.token_id, PromptLogprob(entry.logprob, None, entry.token))
    return ranked
