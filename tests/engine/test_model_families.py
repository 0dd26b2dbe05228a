"""Every family and rope type gives the logits that transformers gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runner_driving import greedy_tokens, new_sequence, random_tokens, tiny_runner, whole_prompt_logits
from tiny_models import FAMILIES, ROPE_TYPES, VOCAB_SIZE, TinyModel, edit_config
from transformers import PreTrainedModel

TOLERANCE = 2e-4


def largest_difference(model: PreTrainedModel, directory: Path, *, num_tokens: int, chunk_sizes: list[int]) -> float:
    token_ids = random_tokens(num_tokens, vocab_size=VOCAB_SIZE, seed=num_tokens)
    with torch.no_grad():
        expected = model(torch.tensor([token_ids])).logits[0]
    sequence = new_sequence(token_ids, blocks=range(40, 0, -1))
    computed = whole_prompt_logits(tiny_runner(directory), sequence, chunk_sizes)
    assert expected.std() > 0.1, "logits that are all alike would prove nothing"
    return float((computed - expected).abs().max())


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_gives_the_logits_of_transformers(name: str, tmp_path: Path) -> None:
    model = FAMILIES[name].write(tmp_path)
    assert largest_difference(model, tmp_path, num_tokens=70, chunk_sizes=[]) < TOLERANCE
    assert largest_difference(model, tmp_path, num_tokens=70, chunk_sizes=[13, 1, 1, 30]) < TOLERANCE


@pytest.mark.parametrize("num_tokens", [20, 90])
@pytest.mark.parametrize("name", ROPE_TYPES)
def test_a_rope_type_gives_the_logits_of_transformers(name: str, num_tokens: int, tmp_path: Path) -> None:
    model = ROPE_TYPES[name].write(tmp_path)
    assert largest_difference(model, tmp_path, num_tokens=num_tokens, chunk_sizes=[7]) < TOLERANCE


def test_dynamic_rope_stretches_beyond_the_stated_context_as_in_transformers(tmp_path: Path) -> None:
    model = TinyModel(
        "llama",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}, "max_position_embeddings": 32},
    ).write(tmp_path)
    assert largest_difference(model, tmp_path, num_tokens=80, chunk_sizes=[50]) < TOLERANCE


@pytest.mark.parametrize("name", ["dynamic", "longrope"])
def test_tokens_decoded_past_the_boundary_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    settings = {**ROPE_TYPES[name].settings, "max_position_embeddings": 32}
    model = TinyModel("llama", settings).write(tmp_path)
    prompt = random_tokens(28, vocab_size=VOCAB_SIZE, seed=1)
    with torch.no_grad():
        generated = model.generate(
            torch.tensor([prompt]), max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0
        )[0].tolist()
    sequence = new_sequence(prompt, range(1, 40), resume_token_ids=generated[len(prompt) :])
    del sequence.token_ids[len(prompt) :]
    assert greedy_tokens(tiny_runner(tmp_path), sequence, num_tokens=20) == generated[len(prompt) :]


OLD_SPELLINGS = {
    "default": {"rope_theta": 5000.0},
    "linear": {"rope_theta": 5000.0, "rope_scaling": {"type": "linear", "factor": 4.0}},
    "yarn": {
        "rope_theta": 5000.0,
        "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24},
    },
}


@pytest.mark.parametrize("name", OLD_SPELLINGS)
def test_rope_parameters_in_the_old_spelling_mean_the_same(name: str, tmp_path: Path) -> None:
    model = ROPE_TYPES[name].write(tmp_path)
    edit_config(tmp_path, rope_parameters=..., **OLD_SPELLINGS[name])
    assert largest_difference(model, tmp_path, num_tokens=60, chunk_sizes=[]) < TOLERANCE
