"""Drives a model runner with hand-made plans: the tests' own scheduler."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from enginebay.engine.model_runner import ModelRunner
from enginebay.engine.plan import ScheduledSequence, StepPlan
from enginebay.engine.request import EngineRequest
from enginebay.engine.sequence import Sequence
from enginebay.engine.settings import EngineConfig

BLOCK_SIZE = 4


def tiny_runner(directory: Path, **settings: object) -> ModelRunner:
    values: dict[str, object] = {
        "dtype": "float32",
        "block_size": BLOCK_SIZE,
        "num_blocks": 128,
        "num_threads": 1,  # two that fight for a busy core are many times slower than one
    }
    return ModelRunner(EngineConfig(model_dir=str(directory), **{**values, **settings}))  # type: ignore[arg-type]


def random_tokens(num_tokens: int, *, vocab_size: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab_size, (num_tokens,), generator=generator).tolist()


def new_sequence(token_ids: list[int], blocks: Iterable[int], **request: object) -> Sequence:
    """All tokens are the prompt unless `resume_token_ids` says else; the blocks are taken in the order given."""
    values: dict[str, object] = {"request_id": "test", "max_tokens": 1, "seed": 0, "num_prompt_logprobs": 0}
    sequence = Sequence(
        EngineRequest(prompt_token_ids=token_ids, **{**values, **request}),  # type: ignore[arg-type]
        arrived_at=0.0,
    )
    num_blocks = -(-(sequence.num_tokens + 1) // BLOCK_SIZE)
    sequence.block_table = [block for block, _ in zip(blocks, range(num_blocks), strict=False)]
    assert len(sequence.block_table) == num_blocks
    return sequence


def chunk(sequence: Sequence, start: int, end: int, *, num_padding_tokens: int = 0) -> ScheduledSequence:
    samples = end == sequence.num_tokens
    return ScheduledSequence(sequence, start, end - start, num_padding_tokens=num_padding_tokens, samples=samples)


def whole_prompt_logits(runner: ModelRunner, sequence: Sequence, chunk_sizes: Iterable[int] = ()) -> Tensor:
    """(num_tokens, vocab_size), computed in chunks of these sizes and then the rest at once."""
    rows: list[Tensor] = []
    start = 0
    for size in (*chunk_sizes, sequence.num_tokens):
        end = min(start + size, sequence.num_tokens)
        if end > start:
            rows.append(runner.forward(StepPlan([chunk(sequence, start, end)])).prompt[0][:])
        start = end
    return torch.cat(rows)


def greedy_tokens(runner: ModelRunner, sequence: Sequence, *, num_tokens: int) -> list[int]:
    """Prefill and decode alone; the sequence must own blocks for all of them."""
    start = 0
    for _ in range(num_tokens):
        step = StepPlan([chunk(sequence, start, sequence.num_tokens)])
        start = sequence.num_tokens
        sequence.token_ids.append(int(runner.forward(step).sampled[0].argmax()))
    return sequence.token_ids[-num_tokens:]
