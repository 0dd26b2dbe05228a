"""The real engine beyond the conformance suite: what this adapter claims about it, and about no other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from enginebay.errors import ContextTooLong, InvalidRequest
from enginebay.guard import GuardedBackend
from enginebay.plugins import get_backend
from enginebay.types import (
    Chat,
    FinishReason,
    GenerationChunk,
    GenerationRequest,
    Message,
    Prompt,
    SamplingParams,
    Text,
    TokenIds,
)

ENGINE = Path(".venvs/openvino")
PATIENCE_S = 60.0
PROMPTS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain in two sentences why the sky is blue.",
    "List three colours.",
)

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not ENGINE.is_dir(), reason="no OpenVINO GenAI: python plugins/openvino/install_openvino.py"),
]


def openvino(**settings: object) -> GuardedBackend:
    return get_backend("openvino", venv=str(ENGINE), **settings)  # type: ignore[arg-type]


def asked(prompt: Prompt | str, *, max_tokens: int = 24, **sampling: object) -> GenerationRequest:
    sampling.setdefault("temperature", 0.0)
    chat = Chat((Message("user", prompt),)) if isinstance(prompt, str) else prompt
    return GenerationRequest(
        request_id="r",
        prompt=chat,
        sampling=SamplingParams(max_tokens=max_tokens, **sampling),  # type: ignore[arg-type]
    )


async def answer(backend: GuardedBackend, request: GenerationRequest) -> list[GenerationChunk]:
    return [chunk async for chunk in backend.generate(request)]


async def token_ids(backend: GuardedBackend, request: GenerationRequest) -> list[int]:
    return [token_id for chunk in await answer(backend, request) for token_id in chunk.token_ids or ()]


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    gives_up_at = time.monotonic() + PATIENCE_S
    while not await condition():
        assert time.monotonic() < gives_up_at
        await asyncio.sleep(0.05)


def test_prompts_and_most_greedy_tokens_agree_with_the_reference_engine() -> None:
    """Both in float32, both caches in float32: the first tokens are the same; later an argmax may be a tie."""

    async def answers(backend: GuardedBackend) -> list[tuple[tuple[int, ...], list[int]]]:
        async with backend:
            return [
                (await backend.count_tokens(asked(prompt).prompt), await token_ids(backend, asked(prompt)))
                for prompt in PROMPTS
            ]

    theirs = asyncio.run(answers(openvino(dtype="float32", kv_cache_dtype="float32")))
    ours = asyncio.run(answers(get_backend("reference", dtype="float32")))
    assert [prompt for prompt, _ in theirs] == [prompt for prompt, _ in ours]
    prefixes = [_common_prefix(one, other) for (_, one), (_, other) in zip(theirs, ours, strict=True)]
    lengths = [len(output) for _, output in ours]
    assert sum(prefixes) >= 0.9 * sum(lengths), list(zip(prefixes, lengths, strict=True))
    assert min(prefixes) >= 4, prefixes


def _common_prefix(one: list[int], other: list[int]) -> int:
    pairs = zip(one, other, strict=False)
    return next((index for index, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def test_a_cancelled_request_frees_its_slot_and_its_cache_in_the_engines_own_metrics() -> None:
    async def main() -> None:
        async with openvino(max_num_seqs=2) as backend:
            endless = asked("Tell me a long story.", max_tokens=4000, ignore_eos=True)
            tasks = [asyncio.create_task(answer(backend, endless)) for _ in range(3)]

            async def two_run_and_one_waits() -> bool:
                stats = await backend.stats()
                return (stats.requests_running, stats.requests_waiting) == (2, 1)

            await until(two_run_and_one_waits)
            assert ((await backend.stats()).kv_cache_usage_ratio or 0) > 0
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

            async def is_empty() -> bool:
                stats = await backend.stats()
                own = stats.extra["openvino_pipeline_requests"]
                return (stats.requests_running, stats.kv_cache_usage_ratio, own) == (0, 0, 0)

            await until(is_empty)

    asyncio.run(main())


def test_seeds_repeat_among_other_requests() -> None:
    async def main() -> None:
        async with openvino() as backend:

            def seeded(seed: int) -> GenerationRequest:
                return asked("Tell me a story.", temperature=1.0, seed=seed, max_tokens=12)

            alone = await token_ids(backend, seeded(5))
            together = await asyncio.gather(*(token_ids(backend, seeded(seed)) for seed in (5, 6, 5, -6)))
            assert together[0] == together[2] == alone
            assert together[1] != alone

    asyncio.run(main())


def test_prompts_that_would_break_a_step_are_refused_before_it_and_the_others_served() -> None:
    async def main() -> None:
        async with openvino(
            cache_size_gb=1, max_num_seqs=8, chunked_prefill=False, max_num_batched_tokens=64
        ) as backend:
            with pytest.raises(ContextTooLong, match="is 64 tokens"):
                await answer(backend, asked(TokenIds(tuple(range(100, 180)))))
            with pytest.raises(InvalidRequest, match="vocabulary"):
                await answer(backend, asked(TokenIds((49152,))))
            chunks = await asyncio.gather(*(answer(backend, asked(Text("One two"), max_tokens=8)) for _ in range(12)))
            assert all(parts[-1].finish_reason is not None for parts in chunks)

    asyncio.run(main())


def test_int8_weights_are_another_conversion_and_told_as_such() -> None:
    async def main() -> None:
        async with openvino(quantization="int8", max_num_seqs=4) as backend:
            assert backend.info.effective_settings["weight_format"] == "int8"
            chunks = await answer(backend, asked("What is the capital of France?"))
            assert "Paris" in "".join(chunk.text for chunk in chunks)
            assert chunks[-1].finish_reason is FinishReason.STOP

    asyncio.run(main())
