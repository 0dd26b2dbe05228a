"""Log-probabilities as servers of the OpenAI API write them, made our own values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from enginebay.types import PromptEcho, TokenAlternative, TokenLogprob
from enginebay.wire.openai_answers import ContentLogprob, LogprobsAnswer, PromptLogprobs, PromptTokenLogprob


def token_logprobs(
    answer: LogprobsAnswer | None, *, token_ids: Sequence[int] | None, num_alternatives: int | None
) -> tuple[TokenLogprob, ...] | None:
    """token_ids: those of the same chunk, else unknown. num_alternatives: what was asked for."""
    if answer is None:
        return None
    if answer.content is not None:
        ids = _ids(token_ids, len(answer.content))
        return tuple(_of_content(entry, token_id) for entry, token_id in zip(answer.content, ids, strict=True))
    tokens, logprobs = answer.tokens or [], answer.token_logprobs or []
    if len(tokens) != len(logprobs):
        return None
    tops = answer.top_logprobs or [None] * len(tokens)
    ids = _ids(token_ids, len(tokens))
    return tuple(
        TokenLogprob(token_id, token, logprob, _alternatives(top, num_alternatives, own=(token, token_id)))
        for token, logprob, top, token_id in zip(tokens, logprobs, tops, ids, strict=False)
        if logprob is not None
    )


def prompt_echo(token_ids: Sequence[int] | None, logprobs: PromptLogprobs | None) -> PromptEcho | None:
    """None where the server tells no token ids."""
    if token_ids is None:
        return None
    if logprobs is None or len(logprobs) != len(token_ids):
        return PromptEcho(tuple(token_ids))
    entries = tuple(_of_prompt(entry, token_id) for entry, token_id in zip(logprobs, token_ids, strict=True))
    return PromptEcho(tuple(token_ids), entries)


def _of_content(entry: ContentLogprob, token_id: int | None) -> TokenLogprob:
    own_id = entry.id if token_id is None else token_id
    alternatives = tuple(
        TokenAlternative(own_id if top.id is None and top.token == entry.token else top.id, top.token, top.logprob)
        for top in entry.top_logprobs or ()
    )
    return TokenLogprob(own_id, entry.token, entry.logprob, alternatives)


def _alternatives(
    top: Mapping[str, float] | None, num_alternatives: int | None, *, own: tuple[str, int | None]
) -> tuple[TokenAlternative, ...]:
    """Best first. A completion lists the chosen token too where it is not among the best: one more than asked.

    own: the chosen token and its id, the only one that is known.
    """
    own_token, own_id = own
    ranked = sorted((top or {}).items(), key=lambda item: -item[1])
    return tuple(
        TokenAlternative(own_id if token == own_token else None, token, logprob)
        for token, logprob in ranked[:num_alternatives]
    )


def _of_prompt(entry: dict[int, PromptTokenLogprob] | None, token_id: int) -> TokenLogprob | None:
    if entry is None or token_id not in entry:
        return None
    own = entry[token_id]
    ranked = sorted(entry.items(), key=lambda item: -item[1].logprob)
    alternatives = tuple(TokenAlternative(id, other.decoded_token or "", other.logprob) for id, other in ranked)
    return TokenLogprob(token_id, own.decoded_token or "", own.logprob, alternatives)


def _ids(token_ids: Sequence[int] | None, num_tokens: int) -> Sequence[int | None]:
    """Only where they are in step: a stop string may have cut tokens off the text but not off the ids."""
    if token_ids is not None and len(token_ids) == num_tokens:
        return token_ids
    return [None] * num_tokens
