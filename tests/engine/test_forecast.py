"""What is foretold of an engine is what it then starts with, and nothing is read for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from runner_driving import BLOCK_SIZE
from tiny_models import FAMILIES, TinyModel

from enginebay.engine.model_runner import ModelRunner
from enginebay.engine.settings import EngineConfig
from enginebay.engine.setup import forecast
from enginebay.errors import ConfigError, ModelError


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    FAMILIES["llama"].write(path)
    return path


@pytest.fixture(scope="module")
def draft_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("draft")
    TinyModel("llama", {"num_hidden_layers": 1}).write(path)
    return path


def tiny_config(directory: Path, **settings: object) -> EngineConfig:
    values: dict[str, object] = {"dtype": "float32", "block_size": BLOCK_SIZE, "max_num_seqs": 4, "num_threads": 1}
    return EngineConfig(model_dir=str(directory), **{**values, **settings})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"kernels": "plain"},
        {"kernels": "auto"},
        {"quantization": "int8", "smooth_int8": False},
        {"quantization": "int8_weight_only"},
        {"kv_cache_bytes": 200_000},
        {"batch_invariant": True},
    ],
)
def test_kernels_and_kv_cache_are_those_that_the_engine_starts_with(directory: Path, settings: dict[str, object]):
    found = forecast(tiny_config(directory, **settings))
    runner = ModelRunner(tiny_config(directory, **settings))
    assert runner.kernels.split(",")[0] == found.kernels.kernels
    assert found.memory.kv_cache == runner.memory_use.kv_cache
    assert found.memory.weight_bytes <= runner.memory_use.weight_bytes
    assert str(found.memory.num_bytes) in str(found.memory).replace(",", "")


def test_a_draft_model_with_a_cache_of_its_own_is_in_the_sum(directory: Path, draft_directory: Path):
    settings: dict[str, object] = {"kernels": "plain", "speculative_draft_dir": str(draft_directory)}
    found, alone = (forecast(tiny_config(directory, **told)) for told in (settings, {"kernels": "plain"}))
    runner = ModelRunner(tiny_config(directory, **settings))
    assert found.memory.kv_cache == runner.memory_use.kv_cache
    assert found.memory.kv_cache.block_bytes == alone.memory.kv_cache.block_bytes * 4 // 3
    assert found.memory.weight_bytes == runner.memory_use.weight_bytes + runner.memory_use.draft_bytes


def test_no_weight_is_read(directory: Path, monkeypatch: pytest.MonkeyPatch):
    def read(*arguments: object, **keywords: object) -> object:
        raise AssertionError("a weight was read")

    monkeypatch.setattr("enginebay.engine.weights.Checkpoint.take", read)
    with pytest.raises(AssertionError, match="a weight was read"):
        ModelRunner(tiny_config(directory))
    assert forecast(tiny_config(directory)).memory.weight_bytes > 0


def test_what_the_start_would_refuse_beside_memory_is_told_too(directory: Path):
    with pytest.raises(ConfigError, match="8 tokens in a step cannot give each of 16 sequences one"):
        forecast(tiny_config(directory, max_num_seqs=16, max_num_batched_tokens=8))
    with pytest.raises(ModelError, match="max_model_len 97 is beyond"):
        forecast(tiny_config(directory, max_model_len=97))


def test_what_cannot_fit_is_refused_before_kernels_are_compiled(directory: Path, monkeypatch: pytest.MonkeyPatch):
    def compile_them(*arguments: object, **keywords: object) -> object:
        raise AssertionError("kernels were chosen")

    monkeypatch.setattr("enginebay.engine.model_runner.choose_layers", compile_them)
    with pytest.raises(ModelError, match="the KV cache cannot hold one context"):
        ModelRunner(tiny_config(directory, num_blocks=2))


def test_what_does_not_fit_is_told_with_the_sum(directory: Path):
    with pytest.raises(ModelError, match="the KV cache cannot hold one context of 96 tokens"):
        forecast(tiny_config(directory, num_blocks=2))


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"speculative_self_draft": "first_layers:9"}, "has 3 layers; use int8, or first_layers:N"),
        ({"speculative_self_draft": "int8", "quantization": "int8"}, "the model is in int8 itself"),
        ({"speculative_draft_dir": "another"}, "its vocabulary has 150 tokens, that of the model 160"),
    ],
)
def test_a_draft_that_the_model_cannot_have_is_told_before_a_weight_is_read(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], reason: str
):
    TinyModel("llama", {"vocab_size": 150}).write(tmp_path / "another")
    monkeypatch.chdir(tmp_path)

    def read(*arguments: object, **keywords: object) -> object:
        raise AssertionError("a weight was read")

    monkeypatch.setattr("enginebay.engine.weights.Checkpoint.take", read)
    for start in (forecast, ModelRunner):
        with pytest.raises(ModelError, match=reason):
            start(tiny_config(directory, **settings))
