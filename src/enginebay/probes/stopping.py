"""Probes of when an answer ends."""

from __future__ import annotations

from enginebay.backend import Backend
from enginebay.probes.asking import Answer, again, ask, chat, greedy
from enginebay.probes.probe import Probe, ProbeFailed, ProbeSkipped, expect
from enginebay.probes.sampling import token_ids
from enginebay.types import Feature, FinishReason, GenerationRequest


async def _max_tokens_is_exact(backend: Backend) -> str:
    for limit in (1, 2, 7):
        answer = await ask(backend, _unended(backend, greedy(backend, max_tokens=limit)))
        if answer.finish_reason is FinishReason.STOP and answer.num_tokens < limit:
            raise ProbeSkipped(f"the model ends by itself after {answer.num_tokens} of {limit} tokens")
        expect(answer.num_tokens == limit, f"{answer.num_tokens} tokens came with max_tokens={limit}")
        expect(
            answer.finish_reason is FinishReason.LENGTH, f"the limit was met, the end is told as {answer.finish_reason}"
        )
    return "1, 2 and 7 tokens"


async def _stops_before_the_string(backend: Backend) -> str:
    request, whole = await _unstopped(backend)
    stop = _inner_string(whole)
    answer = await ask(backend, again(request, stop=(stop,)))
    expected = whole.text[: whole.text.index(stop)]
    expect(answer.text == expected, f"{answer.text!r} with stop={stop!r}, expected {expected!r}")
    expect(answer.finish_reason is FinishReason.STOP, f"the stop was met, the end is told as {answer.finish_reason}")
    return f"ends before {stop!r}"


async def _names_the_string(backend: Backend) -> None:
    request, whole = await _unstopped(backend)
    stop = _inner_string(whole)
    answer = await ask(backend, again(request, stop=("\x00 never said", stop)))
    if answer.whole.stop_reason is None:
        raise ProbeSkipped("the engine does not tell which stop was met")
    expect(answer.whole.stop_reason == stop, f"stop_reason is {answer.whole.stop_reason!r}, the stop was {stop!r}")


async def _keeps_the_string(backend: Backend) -> None:
    request, whole = await _unstopped(backend)
    stop = _inner_string(whole)
    answer = await ask(backend, again(request, stop=(stop,), include_stop_str_in_output=True))
    expected = whole.text[: whole.text.index(stop) + len(stop)]
    expect(answer.text == expected, f"{answer.text!r} with stop={stop!r} kept, expected {expected!r}")


async def _stops_at_the_token(backend: Backend) -> None:
    request, whole = await _unstopped(backend)
    ids = token_ids(whole)
    stop = ids[len(ids) // 2]
    answer = await ask(backend, again(request, stop_token_ids=(stop,)))
    num_expected = ids.index(stop) + 1
    expect(
        answer.usage.num_output_tokens == num_expected,
        f"{answer.usage.num_output_tokens} tokens, the stop token {stop} is number {num_expected}",
    )
    expect(answer.finish_reason is FinishReason.STOP, f"the stop was met, the end is told as {answer.finish_reason}")
    told = answer.whole.stop_reason
    expect(told in (None, stop), f"stop_reason is {told!r}, the stop token was {stop}")
    if told is None and Feature.STOP in backend.info.capabilities:
        await _expect_untold(backend)


async def _expect_untold(backend: Backend) -> None:
    """Whoever names the stop string has to name the stop token as well."""
    request, whole = await _unstopped(backend)
    answer = await ask(backend, again(request, stop=(_inner_string(whole),)))
    told = answer.whole.stop_reason
    expect(told is None, f"stop_reason names the stop string {told!r}, but not a stop token")


async def _min_tokens_delays_the_end(backend: Backend) -> str:
    request, num_tokens = await self_ending(backend, least=1)
    wanted = num_tokens + 4
    answer = await ask(backend, again(request, min_tokens=wanted))
    expect(answer.num_tokens >= wanted, f"{answer.num_tokens} tokens came with min_tokens={wanted}")
    return f"{answer.num_tokens} tokens instead of {num_tokens}"


async def _ignore_eos_reaches_the_limit(backend: Backend) -> str:
    try:
        request, num_tokens = await self_ending(backend, least=1)
        found = f"by itself it ends after {num_tokens}"
    except ProbeSkipped:
        request, num_tokens, found = greedy(backend), 48, "no prompt was found that ends by itself"
    limit = num_tokens + 8
    answer = await ask(backend, again(request, ignore_eos=True, max_tokens=limit))
    expect(answer.num_tokens == limit, f"{answer.num_tokens} of {limit} tokens came with ignore_eos")
    expect(answer.finish_reason is FinishReason.LENGTH, f"the limit was met, the end is told as {answer.finish_reason}")
    return f"{limit} tokens; {found}"


# ---------------------------------------------------------------- answers to stop


def _unended(backend: Backend, request: GenerationRequest) -> GenerationRequest:
    return again(request, ignore_eos=Feature.IGNORE_EOS in backend.info.capabilities)


async def _unstopped(backend: Backend) -> tuple[GenerationRequest, Answer]:
    request = greedy(backend, max_tokens=20)
    return request, await ask(backend, request)


def _inner_string(answer: Answer) -> str:
    """From the middle of the answer, across a blank where there is one, so that it is no token of its own."""
    text = answer.text
    if len(text.strip()) < 6:
        raise ProbeSkipped(f"the answer {text!r} is too short to be stopped")
    middle = len(text) // 2
    blank = text.find(" ", middle)
    begin = blank - 1 if 0 < blank < len(text) - 2 else middle
    stop = text[begin : begin + 3]
    if not stop:
        raise ProbeFailed(f"no part of {text!r} can be a stop")
    return stop


_SHORT_QUESTIONS = (
    "Answer with one word: what is the capital of France?",
    "Say yes.",
    "What is 1 + 1? Answer with the number alone.",
    "Hi",
)
_MOST_TOKENS = 64


async def self_ending(backend: Backend, *, least: int) -> tuple[GenerationRequest, int]:
    """A greedy request that ends before its limit, and after how many tokens."""
    if Feature.CHAT not in backend.info.capabilities:
        raise ProbeSkipped("without chat no prompt is known that ends by itself")
    for question in _SHORT_QUESTIONS:
        request = greedy(backend, prompt=chat(question), max_tokens=_MOST_TOKENS)
        answer = await ask(backend, request)
        if answer.finish_reason is FinishReason.STOP and least <= answer.num_tokens < _MOST_TOKENS - 8:
            return request, answer.num_tokens
    raise ProbeSkipped("no answer ends by itself")


STOP_PROBES = (
    Probe(
        name="max_tokens is exact",
        description="1, 2 and 7 tokens, each ended for its length.",
        run=_max_tokens_is_exact,
    ),
    Probe(
        name="a stop string ends the text before it",
        description="The text ends where the stop begins, and finish_reason is stop.",
        run=_stops_before_the_string,
        feature=Feature.STOP,
    ),
    Probe(
        name="stop_reason names the stop string",
        description="Of two stop strings, the one that was met.",
        run=_names_the_string,
        feature=Feature.STOP,
    ),
    Probe(
        name="a stop string is kept when asked for",
        description="include_stop_str_in_output: the text ends where the stop ends.",
        run=_keeps_the_string,
        feature=Feature.STOP_IN_OUTPUT,
    ),
    Probe(
        name="a stop token ends the answer",
        description="stop_token_ids: usage counts up to that token, finish_reason is stop.",
        run=_stops_at_the_token,
        feature=Feature.STOP_TOKEN_IDS,
    ),
    Probe(
        name="min_tokens delays the end",
        description="An answer that ends by itself goes on for four tokens more.",
        run=_min_tokens_delays_the_end,
        feature=Feature.MIN_TOKENS,
        time_limit_s=120.0,
    ),
    Probe(
        name="ignore_eos reaches max_tokens",
        description="An answer that ends by itself goes on to its limit.",
        run=_ignore_eos_reaches_the_limit,
        feature=Feature.IGNORE_EOS,
        time_limit_s=120.0,
    ),
)
