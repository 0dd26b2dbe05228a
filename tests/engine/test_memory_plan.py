"""What is added up before a model is loaded, and what is refused by it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runner_driving import BLOCK_SIZE, tiny_runner
from tiny_models import FAMILIES, VOCAB_SIZE

from enginebay.engine import memory_plan, model_runner
from enginebay.engine.model_config import read_model_config
from enginebay.engine.settings import EngineConfig
from enginebay.engine.setup import forecast
from enginebay.engine.step_memory import ForwardPass, gathered_bytes, step_bytes
from enginebay.engine.weight_headers import expected_weight_bytes
from enginebay.errors import ModelError

BLOCK_BYTES = 2 * 3 * BLOCK_SIZE * 2 * 8 * 4
"""Keys and values of 3 layers of 2 heads of 8 in float32."""
LAYER_TOKEN_BYTES = 2 * 2 * 8 * 4
CONTEXT_BLOCKS = 96 // BLOCK_SIZE


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def any_directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    FAMILIES[request.param].write(path)
    return path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    FAMILIES["llama"].write(path)
    return path


def has_memory(monkeypatch: pytest.MonkeyPatch, *, available_bytes: int, shareable_bytes: int | None = None) -> None:
    monkeypatch.setattr(memory_plan, "available_memory_bytes", lambda device: available_bytes)
    monkeypatch.setattr(memory_plan, "shareable_memory_bytes", lambda device: shareable_bytes or available_bytes)


def needed_bytes(directory: Path, **settings: object) -> int:
    """By a step, and by the keys and values that the plain layers gather for it: of 32 whole contexts, as all of them
    are so short that they are padded beyond that."""
    return own_step_bytes(directory, **settings) + 32 * 96 * LAYER_TOKEN_BYTES


def own_step_bytes(directory: Path, **settings: object) -> int:
    config = EngineConfig(model_dir="", **settings)  # type: ignore[arg-type]
    own = ForwardPass(read_model_config(directory), gathers_keys=False)
    return step_bytes(config, [own], max_model_len=96, dtype=torch.float32, num_blocks=128)


def weight_bytes(directory: Path, quantization: str | None = None) -> int:
    model = read_model_config(directory)
    return expected_weight_bytes(directory, model, dtype=torch.float32, quantization=quantization)


# ---------------------------------------------------------------- weights and steps


def test_the_headers_tell_what_the_weights_take_once_they_are_held(any_directory: Path) -> None:
    runner = tiny_runner(any_directory, kernels="plain")
    assert weight_bytes(any_directory) == runner.memory_use.weight_bytes


@pytest.mark.parametrize("quantization", ["int8", "int8_weight_only"])
def test_quantised_weights_take_at_least_what_was_expected(any_directory: Path, quantization: str) -> None:
    expected = weight_bytes(any_directory, quantization)
    assert expected < weight_bytes(any_directory) / 2
    assert expected <= tiny_runner(any_directory, quantization=quantization).memory_use.weight_bytes


def test_a_step_is_activations_a_mask_and_logits(directory: Path) -> None:
    activations = 32 * (3 * 48 + 2 * (6 + 2 * 2) * 8 + 3 * 80) * 4
    mask = 32 * 96 * 4
    settings = {"max_num_batched_tokens": 32, "max_num_seqs": 8}

    def num_rows_of_logits(**others: object) -> int:
        num_bytes = own_step_bytes(directory, **settings, **others) - activations - mask
        assert num_bytes % (VOCAB_SIZE * 4) == 0
        return num_bytes // (VOCAB_SIZE * 4)

    assert num_rows_of_logits() == 3 * 8 + 2 * 33  # of a prompt: as much as a step of 32 tokens has of one
    assert num_rows_of_logits(policy="naive") == 3 + 2 * 33
    assert num_rows_of_logits(speculative_ngram=2) == 11 * 24
    assert num_rows_of_logits(speculative_self_draft="int8") == 11 * 32 + 24


def test_what_is_gathered_for_a_step_is_a_context_for_each_slot_or_what_the_cache_holds_padded(directory: Path) -> None:
    def num_tokens(*, num_blocks: int, max_model_len: int, is_draft: bool = False, **settings: object) -> int:
        config = EngineConfig(model_dir="", block_size=BLOCK_SIZE, **settings)  # type: ignore[arg-type]
        one = ForwardPass(read_model_config(directory), gathers_keys=True, is_draft=is_draft)
        told = {"max_model_len": max_model_len, "dtype": torch.float32, "num_blocks": num_blocks}
        num_bytes, rest = divmod(gathered_bytes(config, one, **told), LAYER_TOKEN_BYTES)  # type: ignore[arg-type]
        assert rest == 0
        return num_bytes

    assert num_tokens(num_blocks=10_000, max_model_len=96, max_num_seqs=8) == 8 * 96
    assert num_tokens(num_blocks=10_000, max_model_len=96, policy="naive") == 96
    held, smallest = 2 * 100 * BLOCK_SIZE, 8 * 32 * BLOCK_SIZE
    assert num_tokens(num_blocks=100, max_model_len=100_000, max_num_seqs=8) == held + smallest
    drafts: dict[str, object] = {"max_num_seqs": 8, "speculative_self_draft": "int8", "speculative_num_tokens": 2}
    assert num_tokens(num_blocks=10_000, max_model_len=96, **drafts) == 3 * 8 * 96
    assert num_tokens(num_blocks=100, max_model_len=100_000, **drafts) == 3 * (held + smallest)
    assert num_tokens(num_blocks=10_000, max_model_len=96, is_draft=True, **drafts) == 8 * 96


def test_kernels_that_read_keys_where_they_are_gather_none(directory: Path) -> None:
    """So does whoever computes each row alone."""
    own = own_step_bytes(directory)
    plain, alone = (forecast(forecast_config(directory, batch_invariant=is_on)).memory for is_on in (False, True))
    assert alone.step_bytes == own
    assert plain.step_bytes == own + 32 * 96 * LAYER_TOKEN_BYTES


def test_a_draft_model_that_takes_more_than_the_model_is_what_a_step_takes(directory: Path) -> None:
    passes = [ForwardPass(read_model_config(directory), gathers_keys=False)]
    wide = replace(passes[0].model, hidden_size=1000)

    def taken(*drafts: ForwardPass) -> int:
        told = {"max_model_len": 96, "dtype": torch.float32, "num_blocks": 128}
        return step_bytes(EngineConfig(model_dir=""), [*passes, *drafts], **told)  # type: ignore[arg-type]

    narrow, gathering = (ForwardPass(passes[0].model, gathers_keys=gathers, is_draft=True) for gathers in (False, True))
    assert taken(narrow) == taken()
    assert taken(gathering) == taken() + 32 * 96 * LAYER_TOKEN_BYTES
    assert taken(ForwardPass(wide, gathers_keys=False, is_draft=True)) == taken() + 2048 * 3 * (1000 - 48) * 4


def forecast_config(directory: Path, **settings: object) -> EngineConfig:
    values: dict[str, object] = {"dtype": "float32", "block_size": BLOCK_SIZE, "num_blocks": 128, **settings}
    return EngineConfig(model_dir=str(directory), **values)  # type: ignore[arg-type]


# ---------------------------------------------------------------- refused before it is loaded


def test_what_cannot_fit_is_refused_before_a_weight_is_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_runner, "load_model", None)
    weights, step = weight_bytes(directory), needed_bytes(directory)
    total = weights + 129 * BLOCK_BYTES + step
    has_memory(monkeypatch, available_bytes=total - 1)
    with pytest.raises(ModelError) as refused:
        tiny_runner(directory)
    message = str(refused.value)
    assert f"weights {weights:,} bytes + KV cache 128 blocks of {BLOCK_SIZE} tokens" in message
    assert f"one step of at most {step:,} bytes = {total:,} bytes, but only {total - 1:,} bytes are" in message


@pytest.mark.parametrize("draft", [{"speculative_draft_dir": "itself"}, {"speculative_self_draft": "int8"}])
def test_a_draft_model_is_in_the_sum_before_it_is_loaded(
    directory: Path, draft: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_runner, "load_model", None)
    draft_bytes = weight_bytes(directory, "int8" if "speculative_self_draft" in draft else None)
    settings = {key: str(directory) if value == "itself" else value for key, value in draft.items()}
    has_memory(monkeypatch, available_bytes=weight_bytes(directory) + draft_bytes + 129 * BLOCK_BYTES)
    with pytest.raises(ModelError, match=f"weights {weight_bytes(directory) + draft_bytes:,} bytes"):
        tiny_runner(directory, **settings)


def test_smoothing_needs_the_memory_of_the_unquantised_weights_for_a_while(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where these alone are more than int8 weights, KV cache and a step together."""
    settings = {"quantization": "int8", "num_blocks": CONTEXT_BLOCKS, "max_num_seqs": 1, "max_num_batched_tokens": 1}
    has_memory(monkeypatch, available_bytes=weight_bytes(directory) - 1)
    tiny_runner(directory, **settings, smooth_int8=False)
    monkeypatch.setattr(model_runner, "load_smoothed", None)
    with pytest.raises(ModelError) as refused:
        tiny_runner(directory, **settings)
    assert f"read once in float32, which takes {weight_bytes(directory):,} bytes" in str(refused.value)
    assert "smooth_int8: false" in str(refused.value)


def test_what_fits_exactly_is_loaded(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    has_memory(monkeypatch, available_bytes=weight_bytes(directory) + 129 * BLOCK_BYTES + needed_bytes(directory))
    assert tiny_runner(directory, kernels="plain").num_blocks == 128


# ---------------------------------------------------------------- the size of the KV cache


def test_a_fraction_of_memory_is_for_weights_a_step_and_the_kv_cache_together(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = weight_bytes(directory) + needed_bytes(directory)
    has_memory(monkeypatch, available_bytes=10**9, shareable_bytes=2 * (taken + 51 * BLOCK_BYTES) + 2)
    runner = tiny_runner(directory, kernels="plain", num_blocks=None, gpu_memory_fraction=0.5)
    assert runner.num_blocks == 50


def test_a_fraction_that_leaves_too_little_is_refused_with_the_arithmetic(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = weight_bytes(directory) + needed_bytes(directory)
    has_memory(monkeypatch, available_bytes=10**9, shareable_bytes=taken + CONTEXT_BLOCKS * BLOCK_BYTES)
    with pytest.raises(ModelError, match=rf"gpu_memory_fraction 1 of .*leaves {CONTEXT_BLOCKS * BLOCK_BYTES:,} bytes"):
        tiny_runner(directory, num_blocks=None, gpu_memory_fraction=1.0)
    with pytest.raises(ModelError, match="leaves 0 bytes, which is 0 blocks; allow more"):
        tiny_runner(directory, num_blocks=None, gpu_memory_fraction=0.0001)


def test_one_source_decides_blocks_before_bytes_before_a_fraction(directory: Path) -> None:
    settings = {"kv_cache_bytes": 41 * BLOCK_BYTES, "gpu_memory_fraction": 0.01}
    assert tiny_runner(directory, num_blocks=30, **settings).num_blocks == 30
    assert tiny_runner(directory, num_blocks=None, **settings).num_blocks == 40
    assert tiny_runner(directory, num_blocks=None, max_num_seqs=3).num_blocks == 3 * CONTEXT_BLOCKS
