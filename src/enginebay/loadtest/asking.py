"""What an engine says to some prompts of the plan, with log-probabilities: asked when nothing is measured any more.

Under the load itself they are not asked for: they cost time, and what is compared then is not what is served.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from enginebay.backend import Backend
from enginebay.errors import EngineBayError
from enginebay.loadtest.answers import Answer
from enginebay.loadtest.plan import PlannedRequest
from enginebay.types import Feature, GenerationChunk

NUM_ALTERNATIVES = 5
MAX_TOKENS = 32
"""Most answers that part do so before; longer ones cost time and tell the same."""
NUM_USERS = 8


async def ask(backend: Backend, requests: Sequence[PlannedRequest], *, timeout_s: float | None = None) -> list[Answer]:
    """In the order of the requests; those that fail are left out. Empty where the engine gives no log-probabilities,
    or nothing in a plan is greedy."""
    if Feature.LOGPROBS not in backend.info.capabilities or backend.info.simulated:
        return []
    greedy = [planned for planned in requests if planned.sampling.temperature == 0]
    limit = asyncio.Semaphore(NUM_USERS)

    async def answer(planned: PlannedRequest) -> Answer | None:
        async with limit:
            try:
                async with asyncio.timeout(timeout_s):
                    return await _answer(backend, planned)
            except (EngineBayError, TimeoutError):
                return None

    answers = await asyncio.gather(*(answer(planned) for planned in greedy))
    return [each for each in answers if each is not None]


async def _answer(backend: Backend, planned: PlannedRequest) -> Answer:
    limit = backend.info.capabilities.max_logprobs
    num_alternatives = NUM_ALTERNATIVES if limit is None else min(limit, NUM_ALTERNATIVES)
    request = planned.to_request(f"said-{planned.index}")
    sampling = replace(request.sampling, max_tokens=min(request.sampling.max_tokens, MAX_TOKENS))
    request = replace(request, sampling=sampling, logprobs=num_alternatives)
    return _of_chunks(planned.index, [chunk async for chunk in backend.generate(request)])


def _of_chunks(index: int, chunks: Sequence[GenerationChunk]) -> Answer:
    logprobs = tuple(logprob for chunk in chunks for logprob in chunk.logprobs or ())
    usage = next((chunk.usage for chunk in reversed(chunks) if chunk.usage is not None), None)
    num_tokens = usage.num_output_tokens if usage is not None else len(logprobs)
    token_ids = tuple(token_id for chunk in chunks for token_id in chunk.token_ids or ())
    if len(token_ids) != num_tokens:
        # Engines that tell no ids of their own may tell them with the log-probabilities.
        token_ids = tuple(logprob.token_id for logprob in logprobs if logprob.token_id is not None)
    return Answer(
        index=index,
        text="".join(chunk.text for chunk in chunks),
        num_tokens=num_tokens,
        token_ids=token_ids if len(token_ids) == num_tokens else None,
        logprobs=logprobs if len(logprobs) == num_tokens else None,
    )
