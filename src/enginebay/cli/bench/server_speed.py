"""How fast a running server answers, alone and with several at once: so much fits into the time for a load."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from itertools import count

from enginebay.cli.bench.proposing import MAX_USERS
from enginebay.clock import Clock
from enginebay.errors import BackendError
from enginebay.guard import GuardedBackend
from enginebay.loadtest.schedule import Speed
from enginebay.types import GenerationRequest, SamplingParams, Text, Usage

PROBE_PROMPT = "Describe, one after the other, everything that can be seen from the window of a slow train."
TOKENS_TOGETHER = 16
"""Of each answer when several are asked for at once."""


async def first_answer(backend: GuardedBackend, sampling: SamplingParams) -> Usage | None:
    """To PROBE_PROMPT, by the server's usage. How long it takes is no measure: the server may be cold."""
    [usage] = await _ask(backend, [PROBE_PROMPT], sampling)
    return usage


async def speed_of(backend: GuardedBackend, sampling: SamplingParams, *, clock: Clock) -> Speed:
    """Raises BackendError where one request alone fails."""
    alone = await _tokens_per_s(backend, sampling, num_users=1, clock=clock)
    in_sum = await _together(backend, replace(sampling, max_tokens=TOKENS_TOGETHER), clock=clock)
    return Speed(start_s=0.0, alone_tokens_per_s=alone, together=(MAX_USERS, max(alone, in_sum)))


async def _together(backend: GuardedBackend, sampling: SamplingParams, *, clock: Clock) -> float:
    """0 of a server that refuses so many: it is taken to serve them one by one."""
    try:
        return await _tokens_per_s(backend, sampling, num_users=MAX_USERS, clock=clock)
    except BackendError:
        return 0.0


async def _tokens_per_s(backend: GuardedBackend, sampling: SamplingParams, *, num_users: int, clock: Clock) -> float:
    """In sum. The prompts begin differently, so that no prefix cache serves them."""
    prompts = [f"{num_users}.{number}. {PROBE_PROMPT}" for number in range(num_users)]
    began_at = clock.now()
    usages = await _ask(backend, prompts, sampling)
    num_tokens = sum(usage.num_output_tokens for usage in usages if usage is not None)
    return max(1, num_tokens) / max(1e-6, clock.now() - began_at)


async def _ask(backend: GuardedBackend, prompts: Sequence[str], sampling: SamplingParams) -> list[Usage | None]:
    """All at once. Raises a failure when none is under way any more."""

    async def usage_of(number: int, prompt: str) -> Usage | None:
        request = GenerationRequest(request_id=f"probe-{number}", prompt=Text(prompt), sampling=sampling)
        usages = [chunk.usage async for chunk in backend.generate(request)]
        return next(filter(None, reversed(usages)), None)

    answers = await asyncio.gather(*map(usage_of, count(), prompts), return_exceptions=True)
    usages: list[Usage | None] = []
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        usages.append(answer)
    return usages
