"""Parts 1 to 3: one request at a time, a padded batch that waits, a batch that requests join and leave."""

from __future__ import annotations

import asyncio

import pytest

from enginebay import GenerationRequest, SamplingParams, Text, get_backend
from enginebay.types import EngineStats

pytestmark = pytest.mark.weights

PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a quiet harbour town, there was a lamp that nobody had lit for years, and",
    "def add(a, b):\n    return",
    "Water boils at",
)
MAX_TOKENS = (4, 12, 8, 16)


def run_policy(policy: str) -> tuple[list[str], EngineStats]:
    async def one(backend, index: int) -> str:
        request = GenerationRequest(
            request_id=str(index),
            prompt=Text(PROMPTS[index]),
            sampling=SamplingParams(max_tokens=MAX_TOKENS[index], temperature=0, ignore_eos=True),
        )
        return "".join([chunk.text async for chunk in backend.generate(request)])

    async def main() -> tuple[list[str], EngineStats]:
        backend = get_backend("reference", policy=policy, max_num_seqs=4, max_model_len=256, dtype="float32")
        async with backend:
            texts = await asyncio.gather(*(one(backend, index) for index in range(len(PROMPTS))))
            return list(texts), await backend.stats()

    return asyncio.run(main())


@pytest.fixture(scope="module")
def outcomes() -> dict[str, tuple[list[str], EngineStats]]:
    return {policy: run_policy(policy) for policy in ("naive", "static", "continuous")}


def counter(stats: EngineStats, name: str) -> float:
    return stats.extra[f"enginebay_engine_{name}_total"]


def test_the_policy_changes_the_speed_and_never_the_text(outcomes) -> None:
    naive, static, continuous = (outcomes[policy][0] for policy in ("naive", "static", "continuous"))
    assert naive == static == continuous
    assert "Paris" in naive[0]


def test_naive_computes_one_request_at_a_time(outcomes) -> None:
    stats = outcomes["naive"][1]
    assert counter(stats, "slot_steps") == counter(stats, "steps")
    assert counter(stats, "steps") >= sum(MAX_TOKENS)
    assert counter(stats, "padding_tokens") == 0


def test_static_pads_to_the_longest_and_keeps_the_slots_of_the_finished(outcomes) -> None:
    stats = outcomes["static"][1]
    assert counter(stats, "padding_tokens") > 0
    assert counter(stats, "idle_slot_steps") > 0


def test_continuous_pads_nothing_and_takes_fewer_steps_than_naive(outcomes) -> None:
    stats, naive = outcomes["continuous"][1], outcomes["naive"][1]
    assert counter(stats, "padding_tokens") == 0
    assert counter(stats, "steps") < counter(naive, "steps") / 2
