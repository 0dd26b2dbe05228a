"""Probes of many requests at once."""

from __future__ import annotations

from enginebay.backend import Backend
from enginebay.probes.asking import Answer, ask_all, greedy, plain_prompt
from enginebay.probes.probe import Probe, expect
from enginebay.probes.prompts import count_tokens
from enginebay.types import Feature, Prompt

_NUM_REQUESTS = 32


async def _each_has_its_own_answer(backend: Backend) -> str:
    """Batches change rounding, so that greedy texts may differ from those of one request alone: counts may not."""
    prompts = [plain_prompt(backend, _text(number)) for number in range(_NUM_REQUESTS)]
    limits = [3 + number % 6 for number in range(_NUM_REQUESTS)]
    requests = [greedy(backend, prompt=prompt, max_tokens=limit) for prompt, limit in zip(prompts, limits, strict=True)]
    answers = await ask_all(backend, requests)
    for number, (answer, limit) in enumerate(zip(answers, limits, strict=True)):
        _expect_own(answer, number=number, limit=limit)
    if Feature.COUNT_TOKENS in backend.info.capabilities:
        await _expect_own_prompts(backend, prompts, answers)
    return f"{_NUM_REQUESTS} requests, {sum(answer.num_tokens for answer in answers)} tokens"


def _text(number: int) -> str:
    """No two of one length."""
    words = " ".join(f"and {each} more" for each in range(number))
    return f"Number {number} speaks of the sea and of ships and of storms {words} and it goes on to say that"


def _expect_own(answer: Answer, *, number: int, limit: int) -> None:
    told, usage = answer.num_told_tokens, answer.usage
    expect(bool(answer.text), f"request {number} of {_NUM_REQUESTS} at once got no text")
    expect(answer.num_tokens <= limit, f"request {number} got {answer.num_tokens} tokens, its limit is {limit}")
    expect(
        told in (None, usage.num_output_tokens),
        f"request {number}: usage tells {usage.num_output_tokens} tokens, the chunks {told}",
    )


async def _expect_own_prompts(backend: Backend, prompts: list[Prompt], answers: list[Answer]) -> None:
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        expected = len(await count_tokens(backend, prompt))
        found = answer.usage.num_prompt_tokens
        expect(found == expected, f"request {number} has {expected} prompt tokens, its usage tells {found}")


CONCURRENCY_PROBES = (
    Probe(
        name="thirty-two requests at once each get their own answer",
        description="Prompts of different lengths with different limits: text, limit and usage are each one's own.",
        run=_each_has_its_own_answer,
        time_limit_s=180.0,
    ),
)
