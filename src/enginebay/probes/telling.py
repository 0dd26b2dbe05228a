"""Probes of what a backend tells beside the text: logprobs, health, statistics, its cache."""

from __future__ import annotations

import asyncio
import json
import math
import time

from enginebay.backend import Backend, ResetsPrefixCache
from enginebay.probes.asking import Answer, again, ask, greedy
from enginebay.probes.features import example_request
from enginebay.probes.probe import Probe, ProbeFailed, ProbeSkipped, expect
from enginebay.types import EngineStats, Feature, FinishReason, HealthState, TokenLogprob

_TOLERANCE = 1e-3
HEALTHY_WITHIN_S = 10.0
COUNTED_WITHIN_S = 10.0
"""Engines publish their counters once a step, some once every few seconds."""


async def _each_token_has_a_logprob(backend: Backend) -> str:
    most = backend.info.capabilities.max_logprobs
    asked = 2 if most is None else min(2, most)
    answer = await ask(backend, again(greedy(backend, max_tokens=8), logprobs=asked))
    entries = answer.whole.logprobs or ()
    expect(len(entries) == answer.num_tokens, f"{len(entries)} logprobs for {answer.num_tokens} tokens")
    for entry in entries:
        _expect_sound(entry, num_asked=asked)
    return f"{len(entries)} tokens, {asked} alternatives each"


def _expect_sound(entry: TokenLogprob, *, num_asked: int) -> None:
    best = [alternative.logprob for alternative in entry.alternatives]
    expect(entry.logprob <= _TOLERANCE, f"the logprob of {entry.token!r} is {entry.logprob:g}, more than 0")
    expect(len(best) >= num_asked, f"{len(best)} alternatives at {entry.token!r}, {num_asked} were asked for")
    expect(best == sorted(best, reverse=True), f"the alternatives at {entry.token!r} are not best first: {best}")
    expect(
        not best or entry.logprob >= best[0] - _TOLERANCE,
        f"greedy chose {entry.token!r} ({entry.logprob:g}), the best alternative has {best[:1]}",
    )
    total = sum(math.exp(logprob) for logprob in best)
    expect(total <= 1 + _TOLERANCE, f"the probabilities at {entry.token!r} sum to {total:g}")


async def _prompt_has_logprobs(backend: Backend) -> None:
    answer = await ask(backend, again(greedy(backend, max_tokens=2), prompt_logprobs=0))
    echo = answer.whole.prompt
    if echo is None or echo.logprobs is None:
        raise ProbeFailed("prompt_logprobs is declared, but no chunk carries them")
    expect(
        len(echo.logprobs) == answer.usage.num_prompt_tokens,
        f"{len(echo.logprobs)} logprobs for {answer.usage.num_prompt_tokens} prompt tokens",
    )
    expect(echo.logprobs[0] is None, "the first prompt token has a logprob: nothing comes before it")
    expect(
        all(entry is not None and entry.logprob <= _TOLERANCE for entry in echo.logprobs[1:]),
        "a prompt token has no logprob, or one above 0",
    )


async def _token_ids_are_told(backend: Backend) -> None:
    answer = await ask(backend, greedy(backend))
    ids = answer.whole.token_ids
    if ids is None:
        raise ProbeFailed("token ids are declared, but a chunk has none")
    counted = answer.usage.num_output_tokens
    expect(len(ids) == counted, f"{len(ids)} token ids, usage tells {counted}")


async def _schema_is_kept(backend: Backend) -> str:
    answer = await ask(backend, example_request(backend, Feature.RESPONSE_FORMAT))
    try:
        value = json.loads(answer.text)
    except ValueError as error:
        raise ProbeFailed(f"the answer is no JSON: {answer.text!r}") from error
    expect(value in ({"answer": "yes"}, {"answer": "no"}), f"the answer does not keep the schema: {answer.text!r}")
    return answer.text


# ---------------------------------------------------------------- health and statistics


async def _is_ready(backend: Backend) -> None:
    health = await backend.health()
    expect(health.state is HealthState.READY, f"health is {health.state.value}: {health.reason}")


async def _health_answers_while_busy(backend: Backend) -> str:
    busy = [asyncio.ensure_future(ask(backend, greedy(backend, max_tokens=64))) for _ in range(16)]
    try:
        begun_at = time.monotonic()
        await asyncio.sleep(0)
        health = await asyncio.wait_for(backend.health(), HEALTHY_WITHIN_S)
        duration_s = time.monotonic() - begun_at
    except TimeoutError:
        raise ProbeFailed(f"health did not answer within {HEALTHY_WITHIN_S:g} s while 16 requests run") from None
    finally:
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
    states = (HealthState.READY, HealthState.DEGRADED)
    expect(health.state in states, f"health is {health.state.value} while 16 requests run: {health.reason}")
    return f"{duration_s * 1e3:.0f} ms"


async def _tokens_are_counted(backend: Backend) -> str:
    before = await _when_idle(backend)
    if before.generation_tokens_total is None:
        raise ProbeSkipped("the engine does not tell generation_tokens_total")
    answer = await ask(backend, greedy(backend, max_tokens=9))
    usage = answer.usage
    most = usage.num_output_tokens + usage.num_discarded_tokens
    after = await _settled(backend, before, least=usage.num_output_tokens)
    grown = _growth(after.generation_tokens_total, before.generation_tokens_total)
    expect(usage.num_output_tokens <= grown <= most, f"grew by {grown:g}, {usage.num_output_tokens} were generated")
    return f"grew by {grown:g}"


async def _requests_are_counted(backend: Backend) -> str:
    before = await backend.stats()
    if before.requests_total_by_finish_reason is None:
        raise ProbeSkipped("the engine does not tell how many requests have ended")
    answer = await ask(backend, greedy(backend, max_tokens=3))
    gives_up_at = time.monotonic() + COUNTED_WITHIN_S
    while True:
        after = (await backend.stats()).requests_total_by_finish_reason or {}
        grown = {key: after[key] - before.requests_total_by_finish_reason.get(key, 0.0) for key in after}
        grown = {key: value for key, value in grown.items() if value}
        if grown or time.monotonic() > gives_up_at:
            break
        await asyncio.sleep(0.1)
    expect(sum(grown.values()) == 1, f"one request grew the counters by {grown}")
    expect(_is_reason(next(iter(grown)), answer), f"it ended with {answer.finish_reason}, counted is {grown}")
    return f"{next(iter(grown))}"


def _is_reason(key: str, answer: Answer) -> bool:
    """Counters of engines that tell no reason count under one name."""
    told = set(FinishReason)
    return key not in told or key == answer.finish_reason


async def _when_idle(backend: Backend) -> EngineStats:
    """With nothing left of requests that were cancelled before: some engines count their tokens when they end."""
    gives_up_at = time.monotonic() + COUNTED_WITHIN_S
    while True:
        stats = await backend.stats()
        if not (stats.requests_running or stats.requests_waiting) or time.monotonic() >= gives_up_at:
            return stats
        await asyncio.sleep(0.05)


async def _settled(backend: Backend, before: EngineStats, *, least: float) -> EngineStats:
    """The statistics once they have grown, or when they no longer may take."""
    gives_up_at = time.monotonic() + COUNTED_WITHIN_S
    while True:
        stats = await backend.stats()
        grown = _growth(stats.generation_tokens_total, before.generation_tokens_total)
        if grown >= least or time.monotonic() > gives_up_at:
            return stats
        await asyncio.sleep(0.1)


def _growth(after: float | None, before: float | None) -> float:
    return (after or 0.0) - (before or 0.0)


async def _cache_is_reset(backend: Backend) -> None:
    if not isinstance(backend, ResetsPrefixCache):
        raise ProbeFailed("declares reset_prefix_cache, but has no such method")
    request = greedy(backend)
    first = await ask(backend, request)
    await backend.reset_prefix_cache()
    second = await ask(backend, again(request))
    expect(second.text == first.text, f"{first.text!r} before the reset, {second.text!r} after it")
    cached = second.usage.num_cached_tokens
    expect(cached in (None, 0), f"{cached} prompt tokens came from the cache after its reset")


TELLING_PROBES = (
    Probe(
        name="every token has a logprob",
        description="At most 0, as many as tokens, best alternative first, and greedy chose the best.",
        run=_each_token_has_a_logprob,
        feature=Feature.LOGPROBS,
    ),
    Probe(
        name="every prompt token but the first has a logprob",
        description="prompt_logprobs: as many as usage tells prompt tokens.",
        run=_prompt_has_logprobs,
        feature=Feature.PROMPT_LOGPROBS,
    ),
    Probe(
        name="every chunk tells its token ids",
        description="As many ids as usage tells output tokens.",
        run=_token_ids_are_told,
        feature=Feature.OUTPUT_TOKEN_IDS,
    ),
    Probe(
        name="a JSON schema is kept",
        description="response_format json_schema with two possible answers gives one of them.",
        run=_schema_is_kept,
        feature=Feature.RESPONSE_FORMAT,
    ),
    Probe(name="health says ready", description="Of a started backend.", run=_is_ready),
    Probe(
        name="health answers while the engine is busy",
        description="Within ten seconds while sixteen requests run, and not that it is dead.",
        run=_health_answers_while_busy,
    ),
    Probe(
        name="statistics count the tokens that were generated",
        description="generation_tokens_total grows by what usage tells.",
        run=_tokens_are_counted,
    ),
    Probe(
        name="statistics count the requests that ended",
        description="requests_total_by_finish_reason grows by one, under its reason.",
        run=_requests_are_counted,
    ),
    Probe(
        name="the prefix cache is reset",
        description="The same prompt gives the same answer afterwards, and none of it comes from the cache.",
        run=_cache_is_reset,
        feature=Feature.RESET_PREFIX_CACHE,
    ),
)
