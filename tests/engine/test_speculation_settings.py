"""Draft models that cannot be had are refused with the reason; their memory is part of what is told and added up."""

from __future__ import annotations

from pathlib import Path

import pytest
from runner_driving import tiny_runner
from tiny_models import FAMILIES, TinyModel, edit_config

from enginebay.errors import ModelError


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("llama")
    FAMILIES["llama"].write(directory)
    return directory


@pytest.mark.parametrize("self_draft", ["first_layers:3", "first_layers:0", "first_layers:x", "last_layers:1"])
def test_a_model_is_cut_off_where_it_has_layers_left(self_draft: str, model_dir: Path) -> None:
    with pytest.raises(ModelError, match=r"has 3 layers; use int8, or first_layers:N with N from 1 to 2"):
        tiny_runner(model_dir, speculative_self_draft=self_draft)


def test_a_model_in_int8_has_no_cheaper_int8_form(model_dir: Path) -> None:
    with pytest.raises(ModelError, match="the model is in int8 itself"):
        tiny_runner(model_dir, speculative_self_draft="int8", quantization="int8")


def test_a_draft_model_with_another_vocabulary_is_refused(model_dir: Path, tmp_path: Path) -> None:
    TinyModel("llama", {"vocab_size": 150}).write(tmp_path)
    with pytest.raises(ModelError, match="its vocabulary has 150 tokens, that of the model 160"):
        tiny_runner(model_dir, speculative_draft_dir=str(tmp_path))


def test_a_draft_model_that_does_not_reach_as_far_is_refused(model_dir: Path, tmp_path: Path) -> None:
    TinyModel("llama", {"max_position_embeddings": 48}).write(tmp_path)
    with pytest.raises(ModelError, match="reach 48 tokens, and max_model_len is 96; lower it"):
        tiny_runner(model_dir, speculative_draft_dir=str(tmp_path))
    assert tiny_runner(model_dir, speculative_draft_dir=str(tmp_path), max_model_len=48).draft is not None


def test_a_directory_that_is_no_model_is_refused(model_dir: Path, tmp_path: Path) -> None:
    FAMILIES["llama"].write(tmp_path)
    edit_config(tmp_path, architectures=["OtherForCausalLM"])
    with pytest.raises(ModelError, match="OtherForCausalLM"):
        tiny_runner(model_dir, speculative_draft_dir=str(tmp_path))


def test_a_draft_model_has_weights_and_keys_and_values_of_its_own(model_dir: Path, tmp_path: Path) -> None:
    FAMILIES["llama"].write(tmp_path)
    alone = tiny_runner(model_dir)
    runner = tiny_runner(model_dir, speculative_draft_dir=str(tmp_path))
    assert runner.memory_use.draft_bytes == alone.memory_use.weight_bytes
    assert runner.memory_use.kv_cache.block_bytes == 2 * alone.memory_use.kv_cache.block_bytes
    assert f"draft model {runner.memory_use.draft_bytes:,} bytes" in str(runner.memory_use)
    assert runner.draft is not None
    assert not runner.draft.shares_cache
    assert [tuple(cache.keys.shape) for cache in runner.draft.caches] == [tuple(c.keys.shape) for c in runner.caches]


@pytest.mark.parametrize(("self_draft", "num_layers"), [("first_layers:2", 2), ("int8", 3)])
def test_a_model_that_drafts_for_itself_has_one_cache(self_draft: str, num_layers: int, model_dir: Path) -> None:
    alone = tiny_runner(model_dir)
    runner = tiny_runner(model_dir, speculative_self_draft=self_draft)
    assert runner.memory_use.kv_cache.block_bytes == alone.memory_use.kv_cache.block_bytes
    assert (runner.memory_use.draft_bytes > 0) == (self_draft == "int8")
    assert runner.draft is not None
    assert all(mine is theirs for mine, theirs in zip(runner.draft.caches, runner.caches, strict=False))
    assert len(runner.draft.caches) == num_layers


def test_a_cache_too_small_with_the_share_of_the_draft_is_refused(model_dir: Path, tmp_path: Path) -> None:
    FAMILIES["llama"].write(tmp_path)
    block_bytes = tiny_runner(model_dir).memory_use.kv_cache.block_bytes
    enough = 26 * block_bytes  # one context of 96 tokens in blocks of 4, and scratch
    tiny_runner(model_dir, num_blocks=None, kv_cache_bytes=enough)
    with pytest.raises(ModelError, match="cannot hold one context"):
        tiny_runner(model_dir, num_blocks=None, kv_cache_bytes=enough, speculative_draft_dir=str(tmp_path))
