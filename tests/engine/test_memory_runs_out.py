"""A real model whose steps run out of memory after they have written to the blocks: the tokens stay the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runner_driving import random_tokens
from tiny_models import FAMILIES, VOCAB_SIZE

from enginebay.clock import MonotonicClock
from enginebay.engine.engine import Engine
from enginebay.engine.factory import assemble
from enginebay.engine.logits import StepLogits
from enginebay.engine.model_runner import ModelRunner
from enginebay.engine.plan import StepPlan
from enginebay.engine.request import EngineRequest
from enginebay.engine.settings import EngineConfig


class SmallRunner(ModelRunner):
    """Finds out that a step of more tokens is too large only when it has computed it."""

    memory_tokens: int | None = None
    num_failures = 0

    def forward(self, plan: StepPlan) -> StepLogits:
        logits = super().forward(plan)
        if self.memory_tokens is not None and plan.num_computed_tokens > self.memory_tokens:
            self.num_failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return logits


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    FAMILIES["llama"].write(path)
    return path


def engine_and_runner(directory: Path, **settings: object) -> tuple[Engine, SmallRunner]:
    values: dict[str, object] = {"dtype": "float32", "block_size": 4, "num_blocks": 128, "num_threads": 1, **settings}
    config = EngineConfig(model_dir=str(directory), **values)  # type: ignore[arg-type]
    runner = SmallRunner(config)
    return assemble(config, runner, MonotonicClock()), runner


def tokens_of(engine: Engine) -> dict[str, list[int]]:
    for index in range(6):
        phrase = random_tokens(4 + index, vocab_size=VOCAB_SIZE, seed=index)
        engine.add(
            EngineRequest(
                request_id=str(index),
                prompt_token_ids=phrase * 3,
                max_tokens=12,
                seed=index,
                temperature=0.8 if index % 2 else 0.0,
                ignore_eos=True,
            )
        )
    tokens: dict[str, list[int]] = {}
    while engine.has_work:
        for output in engine.step():
            assert output.error is None
            tokens.setdefault(output.request_id, []).extend(output.token_ids)
    return tokens


@pytest.mark.parametrize("settings", [{}, {"speculative_ngram": 3}, {"policy": "static", "max_num_seqs": 3}], ids=str)
def test_a_step_that_is_computed_again_in_halves_gives_the_same_tokens(
    directory: Path, settings: dict[str, object]
) -> None:
    whole, _ = engine_and_runner(directory, **settings)
    halved, runner = engine_and_runner(directory, **settings)
    runner.memory_tokens = 5
    assert tokens_of(halved) == tokens_of(whole)
    assert runner.num_failures == halved.counters.num_out_of_memory > 0
    halved.scheduler.pool.check_integrity([])
