"""Whole models on the native kernels: as exact as plain ones, whatever the blocks, the drafts and the neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from runner_driving import chunk, new_sequence, random_tokens, tiny_runner, whole_prompt_logits
from tiny_models import VOCAB_SIZE, TinyModel
from torch import Tensor

from enginebay.clock import MonotonicClock
from enginebay.engine.factory import build_engine
from enginebay.engine.kernels.native.build import native_kernels
from enginebay.engine.model_runner import ModelRunner
from enginebay.engine.plan import StepPlan
from enginebay.engine.request import EngineRequest
from enginebay.engine.settings import EngineConfig
from enginebay.errors import ModelError

pytestmark = pytest.mark.skipif(native_kernels().operators is None, reason=native_kernels().why_not or "they are here")

POISON = 77


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"head_dim": 16}),
        ("llama", {"head_dim": 64, "tie_word_embeddings": True}),
        ("llama", {"head_dim": 16, "attention_bias": True, "mlp_bias": True}),
        ("mistral", {"head_dim": 16, "sliding_window": 20}),
        ("qwen3", {"head_dim": 16}),
    ],
)
def test_a_native_model_is_as_close_to_float32_as_the_plain_one(
    family: str, settings: dict[str, object], tmp_path: Path
) -> None:
    """Prompt, chunks, and decode steps; in int8 as close as the plain int8 model."""
    TinyModel(family, settings).write(tmp_path)
    sequence = new_sequence(random_tokens(40, vocab_size=VOCAB_SIZE, seed=0), range(1, 40))
    exact = whole_prompt_logits(tiny_runner(tmp_path), sequence)
    for quantization in (None, "int8"):
        error: dict[str, float] = {}
        for kernels in ("plain", "native"):
            runner = tiny_runner(tmp_path, dtype="bfloat16", kernels=kernels, quantization=quantization)
            assert runner.kernels == kernels
            error[kernels] = float((whole_prompt_logits(runner, sequence, [21, 1, 1, 1]) - exact).abs().mean())
        assert 0 < error["native"] < 1.3 * error["plain"]


@pytest.mark.parametrize("window", [None, 20])
def test_blocks_of_any_size_are_read(window: int | None, tmp_path: Path) -> None:
    """So many tokens that windows begin behind the first blocks. Without one, not a bit depends on the size."""
    TinyModel("mistral", {"head_dim": 16, "sliding_window": window}).write(tmp_path)
    sequence = new_sequence(random_tokens(90, vocab_size=VOCAB_SIZE, seed=0), range(1, 40))
    exact = whole_prompt_logits(tiny_runner(tmp_path), sequence)
    plain = whole_prompt_logits(tiny_runner(tmp_path, dtype="bfloat16", kernels="plain"), sequence)
    found = {}
    for block_size in (1, 4, 7, 16, 48):
        sequence.block_table = [1 + 37 * block % 100 for block in range(-(-91 // block_size))]
        runner = tiny_runner(tmp_path, dtype="bfloat16", kernels="native", block_size=block_size)
        found[block_size] = whole_prompt_logits(runner, sequence, [33, 1, 1, 40, 1])
        error = float((found[block_size] - exact).abs().mean())
        assert 0 < error < 1.3 * float((plain - exact).abs().mean())
    if window is None:
        assert all(torch.equal(logits, found[1]) for logits in found.values())


def test_more_heads_on_one_key_head_than_a_tile_has_rows_are_left_to_other_kernels(tmp_path: Path) -> None:
    sizes = {"hidden_size": 34, "head_dim": 16, "num_attention_heads": 17, "num_key_value_heads": 1}
    TinyModel("llama", sizes).write(tmp_path)
    sequence = new_sequence(random_tokens(10, vocab_size=VOCAB_SIZE, seed=0), range(1, 40))
    for quantization in (None, "int8"):
        runner = tiny_runner(tmp_path, dtype="bfloat16", quantization=quantization)
        assert runner.kernels in ("packed", "plain")
        assert whole_prompt_logits(runner, sequence).isfinite().all()
    with pytest.raises(ModelError, match="17 heads share a key head, they compute at most 16; use auto"):
        tiny_runner(tmp_path, dtype="bfloat16", kernels="native")


@pytest.mark.parametrize("block_size", [4, 16])
def test_a_sequence_that_is_not_a_number_harms_neither_neighbours_nor_heirs_of_its_blocks(
    block_size: int, tmp_path: Path
) -> None:
    TinyModel("mistral", {"head_dim": 16, "sliding_window": 20}).write(tmp_path)
    settings = {"dtype": "bfloat16", "kernels": "native", "block_size": block_size}
    healthy = [token_id for token_id in random_tokens(60, vocab_size=VOCAB_SIZE, seed=9) if token_id != POISON][:33]
    expected = whole_prompt_logits(tiny_runner(tmp_path, **settings), new_sequence(healthy, range(1, 40)))
    runner = tiny_runner(tmp_path, **settings)
    poisoned(runner)
    broken = new_sequence([*healthy[:3], POISON, *healthy[4:20]], range(1, 40))
    neighbour = new_sequence(healthy, range(40, 80))
    runner.forward(StepPlan([chunk(broken, 0, 9), chunk(neighbour, 0, 11)]))
    logits = runner.forward(StepPlan([chunk(broken, 9, 20), chunk(neighbour, 11, 33)])).sampled
    assert logits[0].isnan().all()
    assert torch.equal(logits[1], expected[-1])
    heir = new_sequence(healthy, [*reversed(broken.block_table), *range(90, 99)])
    assert torch.equal(whole_prompt_logits(runner, heir, [17, *[1] * 9]), expected)


def poisoned(runner: ModelRunner) -> None:
    """One token's embedding is not a number."""
    embed = runner.model.embedding.forward

    def forward(token_ids: Tensor) -> Tensor:
        return embed(token_ids).masked_fill_((token_ids == POISON)[:, None], torch.nan)

    runner.model.embedding.forward = forward  # type: ignore[method-assign]


FORMS: dict[str, dict[str, object]] = {
    "native": {},
    "native int8": {"quantization": "int8"},
    "packed": {"kernels": "packed"},
    "plain": {"kernels": "plain"},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("draft", ["another model", "int8", "first_layers:2"])
def test_a_draft_reads_steps_in_the_form_of_its_own_kernels(form: str, draft: str, tmp_path: Path) -> None:
    """Of a native model the tokens are those without drafts, to the bit; others may round apart."""
    TinyModel("llama", {"head_dim": 16}).write(tmp_path)
    settings = {"dtype": "bfloat16", **FORMS[form]}
    if draft == "int8" and "quantization" in settings:
        pytest.skip("a model in int8 has no int8 form that is cheaper")
    drafts = {"speculative_draft_dir": str(tmp_path)} if draft == "another model" else {"speculative_self_draft": draft}
    tokens, num_accepted = answered(tmp_path, {**settings, **drafts})
    assert num_accepted > 0
    if form.startswith("native"):
        assert tokens == answered(tmp_path, settings)[0]


def answered(directory: Path, settings: Mapping[str, object]) -> tuple[dict[str, list[int]], int]:
    """Greedy tokens of three requests, and how many of them were drafted."""
    common = {"block_size": 4, "num_blocks": 96, "num_threads": 1, "speculative_adaptive": False}
    engine = build_engine(
        EngineConfig(model_dir=str(directory), **common, **settings),  # type: ignore[arg-type]
        MonotonicClock(),
    )
    tokens: dict[str, list[int]] = {name: [] for name in "abc"}
    for seed, name in enumerate(tokens):
        prompt = random_tokens(5 + seed, vocab_size=VOCAB_SIZE, seed=seed)
        engine.add(
            EngineRequest(
                request_id=name, prompt_token_ids=prompt, max_tokens=20, seed=0, temperature=0.0, ignore_eos=True
            )
        )
    while engine.has_work:
        for output in engine.step():
            assert output.error is None, output.error
            tokens[output.request_id] += output.token_ids
    return tokens, engine.counters.num_accepted_tokens
