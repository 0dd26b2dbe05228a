"""Smoothing moves size from activations to weights: the model stays what it is, its int8 form comes closer to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runner_driving import new_sequence, random_tokens, tiny_runner, whole_prompt_logits
from safetensors.torch import load_file, save_file
from tiny_models import FAMILIES, VOCAB_SIZE
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor

from enginebay.engine.layers import PlainLayers
from enginebay.engine.model import CausalLM, load_model
from enginebay.engine.model_config import read_model_config
from enginebay.engine.smoothing import load_smoothed, made_by, read_by
from enginebay.engine.smoothing_factors import _caches, _step, find_factors
from enginebay.errors import UnsupportedModel

CPU = torch.device("cpu")


def logits(model: CausalLM, directory: Path) -> Tensor:
    config = read_model_config(directory)
    token_ids = random_tokens(20, vocab_size=VOCAB_SIZE, seed=1)
    with torch.inference_mode():
        caches = _caches(config, token_ids, CPU)
        return model.logits(model.forward(_step(token_ids, config, device=CPU), caches))


def add_large_channels(directory: Path) -> None:
    """Three channels of each norm are much larger than the rest, as in models that were trained."""
    path = directory / "model.safetensors"
    tensors = load_file(path)
    for name, tensor in tensors.items():
        if "layernorm" in name or name == "model.norm.weight":
            tensor[[3, 11, 30]] *= 60
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["llama", "llama, tied embeddings", "llama, attention and mlp biases", "qwen3"])
def test_a_smoothed_model_gives_the_same_logits_bit_for_bit(name: str, tmp_path: Path) -> None:
    FAMILIES[name].write(tmp_path)
    add_large_channels(tmp_path)
    config = read_model_config(tmp_path)
    plain, num_bytes = load_model(tmp_path, config, PlainLayers(), dtype=torch.float32, device=CPU)
    smoothed, num_smoothed_bytes = load_smoothed(tmp_path, config, PlainLayers(), dtype=torch.float32, device=CPU)
    assert torch.equal(logits(smoothed, tmp_path), logits(plain, tmp_path))
    assert num_smoothed_bytes == num_bytes


def test_factors_are_powers_of_two_and_larger_where_activations_are(tmp_path: Path) -> None:
    FAMILIES["llama"].write(tmp_path)
    add_large_channels(tmp_path)
    factors = find_factors(tmp_path, read_model_config(tmp_path), dtype=torch.float32, device=CPU)
    assert set(factors) == {"head", *(f"{layer}.{group}" for layer in range(3) for group in ("qkv", "gate_up", "down"))}
    for found in factors.values():
        assert torch.equal(found.log2(), found.log2().round())
    for name in ("0.qkv", "2.gate_up", "head"):
        large = factors[name][[3, 11, 30]]
        assert large.min() > factors[name].median()


def test_factors_of_weights_in_16_bits_are_found_in_float32(tmp_path: Path) -> None:
    """Sums in 16 bits depend on the number of threads, and with them the integers of two engines with one setting."""
    FAMILIES["llama, attention and mlp biases"].write(tmp_path)
    add_large_channels(tmp_path)
    path = tmp_path / "model.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in load_file(path).items()}, path, {"format": "pt"})
    config = read_model_config(tmp_path)
    narrow, wide = (
        find_factors(tmp_path, config, dtype=dtype, device=CPU) for dtype in (torch.bfloat16, torch.float32)
    )
    assert all(torch.equal(narrow[name], wide[name]) for name in wide)


@pytest.mark.parametrize("name", ["llama", "llama, tied embeddings"])
def test_int8_is_closer_to_the_model_with_smoothing(name: str, tmp_path: Path) -> None:
    FAMILIES[name].write(tmp_path)
    add_large_channels(tmp_path)
    sequence = new_sequence(random_tokens(40, vocab_size=VOCAB_SIZE, seed=0), range(1, 40))
    exact = whole_prompt_logits(tiny_runner(tmp_path), sequence)
    error = {
        smooth: float((whole_prompt_logits(runner, sequence, [21, 1]) - exact).abs().mean())
        for smooth in (False, True)
        if (runner := tiny_runner(tmp_path, quantization="int8", smooth_int8=smooth))
    }
    assert error[True] < 0.8 * error[False]


def test_a_tied_head_that_is_stored_too_is_still_held_to_the_embedding(tmp_path: Path) -> None:
    FAMILIES["llama, tied embeddings"].write(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}, path, {"format": "pt"})
    load_smoothed(tmp_path, read_model_config(tmp_path), PlainLayers(), dtype=torch.float32, device=CPU)
    save_file({**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + 1}, path, {"format": "pt"})
    with pytest.raises(UnsupportedModel, match="differs from the tensor"):
        load_smoothed(tmp_path, read_model_config(tmp_path), PlainLayers(), dtype=torch.float32, device=CPU)


def test_each_tensor_is_told_by_its_name() -> None:
    def read(name: str, *, is_tied: bool = False) -> str | None:
        return read_by(f"model.{name}.weight", is_tied=is_tied)

    assert made_by("model.layers.12.input_layernorm.weight") == read("layers.12.self_attn.k_proj") == "12.qkv"
    assert made_by("model.layers.1.post_attention_layernorm.weight") == read("layers.1.mlp.up_proj") == "1.gate_up"
    assert made_by("model.layers.1.mlp.up_proj.bias") == read("layers.1.mlp.down_proj") == "1.down"
    assert made_by("model.norm.weight") == read_by("lm_head.weight", is_tied=False) == "head"
    assert (read("embed_tokens", is_tied=True), read("embed_tokens")) == ("head", None)
    for name in ("self_attn.q_proj.bias", "self_attn.o_proj.weight", "mlp.down_proj.bias", "self_attn.q_norm.weight"):
        assert read_by(f"model.layers.0.{name}", is_tied=True) is None
        assert made_by(f"model.layers.0.{name}") is None


def test_a_tokenizer_of_another_vocabulary_or_of_none_does_not_matter(tmp_path: Path) -> None:
    FAMILIES["llama"].write(tmp_path)
    config = read_model_config(tmp_path)
    alone = find_factors(tmp_path, config, dtype=torch.float32, device=CPU)
    beyond = Tokenizer(WordLevel({"[UNK]": VOCAB_SIZE + 1}, unk_token="[UNK]"))
    beyond.enable_padding(length=700, pad_id=VOCAB_SIZE + 1)
    beyond.save(str(tmp_path / "tokenizer.json"))
    found = find_factors(tmp_path, config, dtype=torch.float32, device=CPU)
    assert all(torch.equal(found[name], alone[name]) for name in alone)


def test_a_tokenizer_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    FAMILIES["llama"].write(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.json cannot be read"):
        find_factors(tmp_path, read_model_config(tmp_path), dtype=torch.float32, device=CPU)
