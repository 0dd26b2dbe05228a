"""All layers in one call: the same bits as one after the other, and only where every part is known to it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runner_driving import new_sequence, random_tokens, tiny_runner, whole_prompt_logits
from tiny_models import VOCAB_SIZE, TinyModel

from enginebay.engine.kernels.native.build import native_kernels
from enginebay.engine.kernels.native.stack import NativeStack
from enginebay.engine.layers import LayerByLayer
from enginebay.engine.model_runner import ModelRunner

pytestmark = pytest.mark.skipif(native_kernels().operators is None, reason=native_kernels().why_not or "they are here")


def native_runner(directory: Path, **settings: object) -> ModelRunner:
    return tiny_runner(directory, dtype="bfloat16", kernels="native", **settings)


@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize("batch_invariant", [False, True])
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {"head_dim": 16, "attention_bias": True}),
        ("llama", {"head_dim": 32, "num_hidden_layers": 5}),
        ("mistral", {"head_dim": 16, "sliding_window": 20}),
    ],
)
def test_one_call_gives_the_bits_of_one_layer_after_the_other(
    family: str, settings: dict[str, object], batch_invariant: bool, quantization: str | None, tmp_path: Path
) -> None:
    TinyModel(family, settings).write(tmp_path)
    sequence = new_sequence(random_tokens(40, vocab_size=VOCAB_SIZE, seed=0), range(1, 40))
    runner = native_runner(tmp_path, quantization=quantization, batch_invariant=batch_invariant)
    assert isinstance(runner.model.stack, NativeStack)
    together = whole_prompt_logits(runner, sequence, [21, 1, 1, 1])
    runner.model.stack = LayerByLayer(runner.model.layers)
    assert torch.equal(whole_prompt_logits(runner, sequence, [21, 1, 1, 1]), together)


def test_the_first_layers_are_a_stack_of_their_own(tmp_path: Path) -> None:
    TinyModel("llama", {"head_dim": 16, "num_hidden_layers": 3}).write(tmp_path)
    model = native_runner(tmp_path).model
    cut = model.first_layers(2)
    assert isinstance(cut.stack, NativeStack)
    assert (cut.stack.num_layers, model.stack.num_layers) == (2, 3)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("qwen3", {"head_dim": 16}),
        ("llama", {"head_dim": 16, "mlp_bias": True}),
        ("llama", {"head_dim": 16, "hidden_act": "gelu"}),
    ],
)
def test_a_model_with_a_part_that_the_call_does_not_know_runs_layer_by_layer(
    family: str, settings: dict[str, object], tmp_path: Path
) -> None:
    TinyModel(family, settings).write(tmp_path)
    assert isinstance(native_runner(tmp_path).model.stack, LayerByLayer)


def test_layers_of_different_windows_run_one_after_the_other(tmp_path: Path) -> None:
    TinyModel("llama", {"head_dim": 16, "num_hidden_layers": 2}).write(tmp_path)
    model = native_runner(tmp_path).model
    model.layers[1].attention.window = 20
    assert isinstance(model.first_layers(2).stack, LayerByLayer)
    assert isinstance(model.first_layers(1).stack, NativeStack)


def test_layers_and_caches_that_do_not_belong_together_are_an_error(tmp_path: Path) -> None:
    TinyModel("llama", {"head_dim": 16}).write(tmp_path)
    runner = native_runner(tmp_path)
    runner.caches.pop()
    with pytest.raises(RuntimeError):
        whole_prompt_logits(runner, new_sequence(random_tokens(4, vocab_size=VOCAB_SIZE, seed=0), range(1, 4)))
