"""A directory is loaded whole and exactly, or refused by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runner_driving import new_sequence, random_tokens, tiny_runner, whole_prompt_logits
from safetensors.torch import load_file, save_file
from tiny_models import VOCAB_SIZE, TinyModel, edit_config

from enginebay.clock import MonotonicClock
from enginebay.engine.factory import build_engine
from enginebay.engine.model_config import read_model_config
from enginebay.engine.settings import EngineConfig
from enginebay.errors import ModelError, ModelNotFound, UnsupportedModel


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    TinyModel("llama").write(tmp_path)
    return tmp_path


def edit_weights(directory: Path, **changes: torch.Tensor | None) -> None:
    """None removes a tensor; `__` in a name stands for a dot."""
    path = directory / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    for key, tensor in changes.items():
        name = key.replace("__", ".")
        tensors.pop(name, None)
        if tensor is not None:
            tensors[name] = tensor
    save_file(tensors, path)


def logits_of(directory: Path) -> torch.Tensor:
    sequence = new_sequence(random_tokens(20, vocab_size=VOCAB_SIZE, seed=0), range(1, 40))
    return whole_prompt_logits(tiny_runner(directory), sequence)


def test_shards_give_the_same_model_as_one_file(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    sharded = tmp_path_factory.mktemp("sharded")
    TinyModel("llama").write(sharded, max_shard_size="40KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    assert torch.equal(logits_of(sharded), logits_of(directory))


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    TinyModel("llama").write(tmp_path, max_shard_size="40KB")
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelNotFound, match=shard.name):
        tiny_runner(tmp_path)


def test_a_missing_tensor_is_named(directory: Path) -> None:
    edit_weights(directory, model__layers__1__mlp__up_proj__weight=None)
    with pytest.raises(ModelError, match=r"'model\.layers\.1\.mlp\.up_proj\.weight' is missing"):
        tiny_runner(directory)


def test_a_tensor_without_a_place_is_named(directory: Path) -> None:
    edit_weights(directory, model__layers__0__self_attn__q_proj__bias=torch.zeros(48))
    with pytest.raises(UnsupportedModel, match=r"model\.layers\.0\.self_attn\.q_proj\.bias"):
        tiny_runner(directory)


def test_a_tensor_of_another_shape_is_refused_with_both_shapes(directory: Path) -> None:
    edit_weights(directory, model__norm__weight=torch.ones(47))
    with pytest.raises(ModelError, match=r"\(47,\), config.json implies \(48,\)"):
        tiny_runner(directory)


def test_integer_weights_are_refused(directory: Path) -> None:
    edit_weights(directory, model__norm__weight=torch.ones(48, dtype=torch.int8))
    with pytest.raises(UnsupportedModel, match=r"torch\.int8"):
        tiny_runner(directory)


def test_stored_rope_angles_of_old_checkpoints_are_passed_over(directory: Path) -> None:
    expected = logits_of(directory)
    edit_weights(directory, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4))
    assert torch.equal(logits_of(directory), expected)


def test_a_stored_head_that_equals_the_tied_embedding_is_accepted_and_another_refused(tmp_path: Path) -> None:
    TinyModel("llama", {"tie_word_embeddings": True}).write(tmp_path)
    expected = logits_of(tmp_path)
    embedding = load_file(tmp_path / "model.safetensors")["model.embed_tokens.weight"]
    edit_weights(tmp_path, lm_head__weight=embedding.clone())
    assert torch.equal(logits_of(tmp_path), expected)
    edit_weights(tmp_path, lm_head__weight=embedding + 1)
    with pytest.raises(UnsupportedModel, match="lm_head"):
        tiny_runner(tmp_path)


def test_a_truncated_file_is_refused(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="cannot be read"):
        tiny_runner(directory)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "'MambaForCausalLM' is not supported"),
        ({"architectures": ...}, "architecture None"),
        ({"hidden_act": "mish"}, "activation 'mish'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"rope_parameters": {"rope_type": "helix"}}, "unknown rope type 'helix'"),
        ({"rope_parameters": {"rope_type": "llama3"}}, "'llama3' needs 'factor'"),
        ({"rope_parameters": {"rope_type": "default", "mrope_section": [1, 2]}}, "mrope_section"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"rope_parameters": ..., "rope_scaling": {"type": "su"}}, "unknown rope type 'su'"),
        (
            {"rope_parameters": {"rope_type": "longrope", "short_factor": [1.0], "long_factor": [1.0]}},
            "list of 4 numbers",
        ),
        ({"layer_types": ["full_attention", "chunked_attention", "full_attention"]}, "chunked_attention"),
        ({"layer_types": ["sliding_attention"] * 3}, "contradict"),
        ({"num_key_value_heads": 4}, "cannot share"),
        ({"hidden_size": "48"}, "'hidden_size'"),
        ({"vocab_size": ...}, "'vocab_size'"),
    ],
)
def test_what_the_engine_does_not_know_is_refused_by_name(
    directory: Path, changes: dict[str, object], complaint: str
) -> None:
    edit_config(directory, **changes)
    with pytest.raises(UnsupportedModel, match=complaint):
        tiny_runner(directory)


def test_a_directory_without_a_config_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no config\.json"):
        tiny_runner(tmp_path)


def test_a_directory_without_weights_is_no_model(directory: Path) -> None:
    (directory / "model.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"neither model\.safetensors nor"):
        tiny_runner(directory)


def test_end_of_sequence_ids_come_from_the_generation_config_first(directory: Path) -> None:
    (directory / "generation_config.json").write_text('{"eos_token_id": [5, 9]}', encoding="utf-8")
    assert read_model_config(directory).eos_token_ids == (5, 9)
    (directory / "generation_config.json").unlink()
    assert read_model_config(directory).eos_token_ids == (2,)


@pytest.mark.parametrize(
    ("stated", "kept"), [(2, (2,)), ([2, VOCAB_SIZE], (2,)), ([159, 2], (159, 2)), (..., ())], ids=str
)
def test_an_end_of_sequence_that_the_model_cannot_give_is_left_out_beside_one_that_it_can(
    directory: Path, stated: object, kept: tuple[int, ...]
) -> None:
    (directory / "generation_config.json").unlink(missing_ok=True)
    edit_config(directory, eos_token_id=stated)
    assert read_model_config(directory).eos_token_ids == kept


@pytest.mark.parametrize("stated", [-1, [2, -1], VOCAB_SIZE, [VOCAB_SIZE, VOCAB_SIZE + 1]], ids=str)
def test_an_end_of_sequence_outside_the_vocabulary_is_refused_by_name(directory: Path, stated: object) -> None:
    (directory / "generation_config.json").unlink(missing_ok=True)
    edit_config(directory, eos_token_id=stated)
    with pytest.raises(UnsupportedModel, match="eos_token_id"):
        read_model_config(directory)


def test_a_model_that_gives_no_numbers_is_refused_when_it_is_loaded(directory: Path) -> None:
    edit_weights(directory, model__norm__weight=torch.full((48,), float("nan")))
    config = EngineConfig(model_dir=str(directory), dtype="float32", num_blocks=32, num_threads=1)
    with pytest.raises(ModelError, match="no usable logits"):
        build_engine(config, MonotonicClock())
