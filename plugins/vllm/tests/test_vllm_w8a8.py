"""The int8 checkpoint for vLLM: what stands in it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from enginebay.errors import ConfigError, ModelError
from enginebay_vllm.plugin import enginebay_backend
from enginebay_vllm.w8a8 import convert, quantised


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ENGINEBAY_HOME", str(tmp_path / "home"))
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama", "tie_word_embeddings": true}')
    (directory / "tokenizer.json").write_text("{}")
    (directory / "chat_template.jinja").write_text("{{ messages }}")
    (directory / "tokenizer.model").write_bytes(b"pieces")
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "model.embed_tokens.weight": torch.randn(8, 4, generator=generator).bfloat16(),
        "model.layers.0.self_attn.q_proj.weight": torch.randn(6, 4, generator=generator).bfloat16(),
        "model.layers.0.self_attn.q_proj.bias": torch.randn(6, generator=generator).bfloat16(),
        "model.norm.weight": torch.ones(4).bfloat16(),
    }
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def made_of(source: Path) -> Path:
    return convert(source, weight_format="w8a8", venv=None, progress=lambda _: None)


def test_projections_are_int8_with_their_scales_and_the_rest_is_as_it_was(source: Path) -> None:
    directory = made_of(source)
    before, after = load_file(source / "model.safetensors"), load_file(directory / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    assert set(after) == {*before, f"{name}_scale"}
    assert after[name].dtype == torch.int8
    assert after[f"{name}_scale"].shape == (6, 1)
    restored = after[name].float() * after[f"{name}_scale"]
    assert (restored - before[name].float()).abs().max() <= after[f"{name}_scale"].max() / 2 * 1.001
    for other in before.keys() - {name}:
        assert torch.equal(after[other], before[other])


def test_the_config_says_how_it_is_quantised_and_the_tokenizer_comes_along(source: Path) -> None:
    directory = made_of(source)
    config = json.loads((directory / "config.json").read_text())
    assert config["tie_word_embeddings"] is True
    quantization = config["quantization_config"]
    assert (quantization["quant_method"], quantization["format"]) == ("compressed-tensors", "int-quantized")
    assert quantization["ignore"] == ["lm_head"]
    assert quantization["config_groups"]["group_0"]["input_activations"]["dynamic"] is True
    for name in ("tokenizer.json", "tokenizer.model", "chat_template.jinja"):
        assert (directory / name).read_bytes() == (source / name).read_bytes()
    assert made_of(source) == directory


def test_a_model_of_several_files_has_an_index_of_the_new_tensors(source: Path) -> None:
    tensors = load_file(source / "model.safetensors")
    (source / "model.safetensors").unlink()
    for number, names in enumerate((list(tensors)[:2], list(tensors)[2:]), start=1):
        save_file({name: tensors[name] for name in names}, source / f"model-0000{number}-of-00002.safetensors")
    (source / "model.safetensors.index.json").write_text("{}")
    index = json.loads((made_of(source) / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == {*tensors, "model.layers.0.self_attn.q_proj.weight_scale"}


def test_a_row_of_zeros_has_a_scale_that_is_finite() -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    found = quantised({name: torch.zeros(2, 4)})
    assert found[name].abs().max() == 0
    assert bool((found[f"{name}_scale"] > 0).all())


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", '{"quantization_config": {}}', "quantised already"),
        ("model.safetensors", "no tensors", "cannot be read"),
    ],
)
def test_what_cannot_be_converted_is_an_error_and_leaves_nothing(
    source: Path, file: str, text: str, message: str
) -> None:
    (source / file).write_text(text)
    with pytest.raises(ModelError, match=message):
        made_of(source)
    assert not list((source.parent / "home").rglob("config.json"))


def test_another_weight_format_is_refused_by_name(source: Path) -> None:
    with pytest.raises(ConfigError, match="int4"):
        convert(source, weight_format="int4", venv=None, progress=lambda _: None)


def test_the_command_line_finds_it() -> None:
    assert enginebay_backend().convert is convert
