"""Probes of what a prompt may be, and of one that is too long."""

from __future__ import annotations

from dataclasses import replace

from enginebay.backend import Backend, CountsTokens
from enginebay.errors import ContextTooLong, RequestError, UnsupportedFeature
from enginebay.probes.asking import LONG_TEXT, again, ask, chat, greedy, plain_prompt
from enginebay.probes.probe import Probe, ProbeFailed, ProbeSkipped, expect
from enginebay.probes.sampling import token_ids
from enginebay.types import Feature, FinishReason, Message, Prompt, Text, TextPart, TokenIds

_MOST_WORDS = 300_000
"""Of a prompt that is too long: a longer context is not filled."""


async def count_tokens(backend: Backend, prompt: Prompt) -> tuple[int, ...]:
    if not isinstance(backend, CountsTokens):
        raise ProbeFailed("declares count_tokens, but has no such method")
    return await backend.count_tokens(prompt)


async def _counts_what_it_sees(backend: Backend) -> str:
    prompt = plain_prompt(backend, LONG_TEXT)
    ids = await count_tokens(backend, prompt)
    usage = (await ask(backend, greedy(backend, prompt=prompt, max_tokens=1))).usage
    expect(len(ids) == usage.num_prompt_tokens, f"{len(ids)} are counted, usage tells {usage.num_prompt_tokens}")
    return f"{len(ids)} tokens"


async def _ids_equal_text(backend: Backend) -> str:
    if Feature.COUNT_TOKENS not in backend.info.capabilities:
        raise ProbeSkipped("the engine does not tell the ids of a text")
    ids = await count_tokens(backend, Text(LONG_TEXT))
    by_text = await ask(backend, greedy(backend, prompt=Text(LONG_TEXT)))
    by_ids = await ask(backend, greedy(backend, prompt=TokenIds(ids)))
    expect(by_ids.text == by_text.text, f"the ids give {by_ids.text!r}, the text {by_text.text!r}")
    expect(by_ids.usage.num_prompt_tokens == len(ids), f"{len(ids)} ids, usage tells {by_ids.usage.num_prompt_tokens}")
    return f"{len(ids)} ids"


async def _chat_is_answered(backend: Backend) -> str:
    question = chat("Tell me about the sea and the ships on it, in a few plain words for a child.")
    answer = await ask(backend, greedy(backend, prompt=question, max_tokens=16))
    longer = chat("Tell me about the sea.", "The sea is wide.", "Go on, with many more words about ships and storms.")
    continued = await ask(backend, greedy(backend, prompt=longer, max_tokens=16))
    expect(bool(answer.text.strip() or answer.whole.reasoning_text), "a conversation got no text")
    expect(continued.usage.num_prompt_tokens > 0, "a conversation of three messages has no prompt tokens")
    return repr(answer.text)


async def _parts_equal_text(backend: Backend) -> None:
    said = "Tell me about the sea and the ships on it."
    as_parts = replace(chat(), messages=(Message("user", (TextPart(said),)),))
    by_text = await ask(backend, greedy(backend, prompt=chat(said)))
    by_parts = await ask(backend, greedy(backend, prompt=as_parts))
    expect(by_parts.text == by_text.text, f"one text part gives {by_parts.text!r}, the plain content {by_text.text!r}")


async def _too_long_is_told(backend: Backend) -> str:
    limit = backend.info.max_model_len
    if limit is None:
        raise ProbeSkipped("the engine does not tell how long its context is")
    if limit > _MOST_WORDS:
        raise ProbeSkipped(f"a context of {limit} tokens is not filled")
    request = greedy(backend, prompt=plain_prompt(backend, "word " * (limit + 16)), max_tokens=4)
    try:
        answer = await ask(backend, request)
    except UnsupportedFeature:
        raise
    except RequestError as error:
        await ask(backend, greedy(backend, max_tokens=2))
        return "ContextTooLong" if isinstance(error, ContextTooLong) else f"{type(error).__name__}: {error}"
    raise ProbeFailed(
        f"a prompt of more than {limit + 16} tokens was answered in a context of {limit}, with "
        f"{answer.usage.num_prompt_tokens} prompt tokens"
    )


async def _truncated_to_the_number(backend: Backend) -> None:
    answer = await ask(backend, again(greedy(backend), truncate_prompt_tokens=5))
    expect(answer.usage.num_prompt_tokens == 5, f"{answer.usage.num_prompt_tokens} prompt tokens, 5 were asked for")


async def _prefill_only_computes_nothing_more(backend: Backend) -> None:
    answer = await ask(backend, greedy(backend, max_tokens=0))
    expect(answer.usage.num_output_tokens == 0, f"{answer.usage.num_output_tokens} tokens came with max_tokens=0")
    expect(answer.text == "", f"the text {answer.text!r} came with max_tokens=0")
    expect(answer.finish_reason is FinishReason.LENGTH, f"the end is told as {answer.finish_reason}")


async def _resumes_where_it_ended(backend: Backend) -> None:
    request = greedy(backend, max_tokens=12)
    ids = token_ids(whole := await ask(backend, request))
    resumed = await ask(backend, again(request, resume_token_ids=ids[:5]))
    expect(token_ids(resumed) == ids[5:], f"after {ids[:5]} came {resumed.whole.token_ids}, expected {ids[5:]}")
    expect(
        resumed.finish_reason == whole.finish_reason,
        f"the end is told as {resumed.finish_reason}, uninterrupted as {whole.finish_reason}",
    )


PROMPT_PROBES = (
    Probe(
        name="count_tokens tells what the engine sees",
        description="As many ids as usage tells prompt tokens.",
        run=_counts_what_it_sees,
        feature=Feature.COUNT_TOKENS,
    ),
    Probe(
        name="token ids give what their text gives",
        description="The ids of count_tokens as the prompt, greedy: the same answer.",
        run=_ids_equal_text,
        feature=Feature.TOKEN_PROMPT,
    ),
    Probe(
        name="a conversation is answered",
        description="One message and three, in turn.",
        run=_chat_is_answered,
        feature=Feature.CHAT,
    ),
    Probe(
        name="a text part gives what plain content gives",
        description="The same message as a list of one text part: the same greedy answer.",
        run=_parts_equal_text,
        feature=Feature.CHAT,
    ),
    Probe(
        name="a prompt that is too long is the request's fault",
        description="ContextTooLong, or another RequestError; the engine goes on.",
        run=_too_long_is_told,
        time_limit_s=120.0,
    ),
    Probe(
        name="a truncated prompt has as many tokens as asked for",
        description="truncate_prompt_tokens: usage tells that number.",
        run=_truncated_to_the_number,
        feature=Feature.TRUNCATE_PROMPT,
    ),
    Probe(
        name="max_tokens 0 computes the prompt alone",
        description="No text, no output token, ended for its length.",
        run=_prefill_only_computes_nothing_more,
        feature=Feature.PREFILL_ONLY,
    ),
    Probe(
        name="a resumed answer goes on where it ended",
        description="resume_token_ids: the rest of the uninterrupted greedy answer.",
        run=_resumes_where_it_ended,
        feature=Feature.RESUME,
    ),
)
