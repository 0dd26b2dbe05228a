"""Mixed random requests through the backend and its process: every stream ends once, and nothing is left behind."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

from random_llama import VOCAB_SIZE, write_random_llama
from tiny_tokenizers import byte_level

from enginebay.backend import Backend
from enginebay.clock import MonotonicClock
from enginebay.errors import DeadlineExceeded
from enginebay.plugins import get_backend
from enginebay.types import GenerationRequest, SamplingParams, TokenIds

NUM_REQUESTS = 150
NUM_USERS = 12


def random_request(rng: random.Random, index: int) -> GenerationRequest:
    prompt = tuple(rng.randrange(VOCAB_SIZE) for _ in range(rng.choice((1, 5, 30, 60))))
    return GenerationRequest(
        request_id=f"soak {index}",
        prompt=TokenIds((*range(3, 3 + rng.choice((0, 16, 32))), *prompt)),
        sampling=SamplingParams(
            max_tokens=rng.choice((1, 8, 30)),
            temperature=rng.choice((0.0, 0.8, 1.3)),
            top_p=rng.choice((1.0, 0.8)),
            frequency_penalty=rng.choice((0.0, 0.5)),
            stop=rng.choice(((), ("a",), ("qu", "ö"))),
            ignore_eos=rng.random() < 0.5,
            seed=index,
        ),
        logprobs=rng.choice((None, None, 2)),
        priority=rng.choice((0, 0, 3)),
        deadline_at=None if rng.random() < 0.9 else MonotonicClock().now() + rng.choice((0.01, 60.0)),
    )


async def one_end(backend: Backend, request: GenerationRequest, rng: random.Random) -> str:
    """How the stream ended. One in six is left after its first chunk."""
    leaves = rng.random() < 1 / 6
    stream = backend.generate(request)
    finish_reasons: list[str] = []
    num_tokens = 0
    try:
        async for chunk in stream:
            assert not finish_reasons, "a chunk after the last one"
            num_tokens += len(chunk.token_ids or ())
            if chunk.finish_reason is not None:
                assert chunk.usage is not None
                finish_reasons.append(str(chunk.finish_reason))
            elif leaves:
                return "left"
    except DeadlineExceeded:
        return "deadline"
    finally:
        await stream.aclose()
    assert num_tokens <= request.sampling.max_tokens
    [reason] = finish_reasons
    return reason


async def soak(backend: Backend) -> list[str]:
    rng = random.Random(4)
    requests = iter([random_request(rng, index) for index in range(NUM_REQUESTS)])
    ends: list[str] = []

    async def user(number: int) -> None:
        own = random.Random(number)
        for request in requests:
            ends.append(await one_end(backend, request, own))

    await asyncio.gather(*(user(number) for number in range(NUM_USERS)))
    return ends


async def leftovers(backend: Backend) -> tuple[float | None, float | None, float | None]:
    """Requests that run or wait, and the share of blocks in use, once the last cancels have arrived."""
    found = (None, None, None)
    for _ in range(500):
        stats = await backend.stats()
        found = (stats.requests_running, stats.requests_waiting, stats.kv_cache_usage_ratio)
        if found == (0, 0, 0):
            break
        await asyncio.sleep(0.01)
    return found


def test_every_stream_ends_once_and_leaves_nothing_behind(tmp_path: Path) -> None:
    write_random_llama(tmp_path)
    byte_level().save(str(tmp_path / "tokenizer.json"))

    async def main() -> None:
        tasks = asyncio.all_tasks()
        backend = get_backend(
            "reference",
            model=str(tmp_path),
            engine={"dtype": "float32", "max_num_seqs": 6, "max_num_batched_tokens": 40, "speculative_ngram": 3},
            options={"num_blocks": 20, "block_size": 8, "num_threads": 1, "policy": "dynamic"},
        )
        async with backend:
            ends = await soak(backend)
            assert len(ends) == NUM_REQUESTS
            assert {"stop", "length", "left"} <= set(ends)
            assert await leftovers(backend) == (0, 0, 0)
        assert asyncio.all_tasks() == tasks

    asyncio.run(main())
