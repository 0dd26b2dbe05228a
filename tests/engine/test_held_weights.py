"""What is said to be held is what the layers hold; int8 is little more than half of bfloat16."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from runner_driving import tiny_runner
from tiny_models import TinyModel
from torch import Tensor

from enginebay.engine.kernels.native.build import native_kernels
from enginebay.engine.kernels.packed import packing_is_available
from enginebay.engine.layers import Affine, PlainLayers

NEEDS_NATIVE = pytest.mark.skipif(native_kernels().operators is None, reason="this machine has no AMX kernels")
NEEDS_PACKING = pytest.mark.skipif(
    not packing_is_available(torch.device("cpu"), torch.bfloat16), reason="this torch or CPU packs no bfloat16 weights"
)
FORMS = [
    ("plain", None),
    pytest.param("packed", None, marks=NEEDS_PACKING),
    ("plain", "int8"),
    ("plain", "int8_weight_only"),
    pytest.param("native", None, marks=NEEDS_NATIVE),
    pytest.param("native", "int8", marks=NEEDS_NATIVE),
]
MODELS = {
    "tied": TinyModel("llama", {"head_dim": 16, "tie_word_embeddings": True}),
    "untied, biases": TinyModel("llama", {"head_dim": 16, "attention_bias": True, "mlp_bias": True}),
    "query and key norms": TinyModel("qwen3", {"head_dim": 16}),
}


def tensors_in(thing: object, seen: set[int]) -> Iterator[Tensor]:
    """Every tensor that is reached from it, once."""
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield thing
    elif isinstance(thing, (list, tuple)):
        for item in thing:
            yield from tensors_in(item, seen)
    elif type(thing).__module__.startswith("enginebay."):
        names = {*getattr(thing, "__dict__", {}), *getattr(type(thing), "__slots__", ())}
        for name in names:
            yield from tensors_in(getattr(thing, name), seen)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("kernels", "quantization"), FORMS)
def test_the_bytes_that_are_told_are_those_of_the_tensors(
    name: str, kernels: str, quantization: str | None, tmp_path: Path
) -> None:
    MODELS[name].write(tmp_path)
    settings = {"kernels": kernels, "quantization": quantization, "smooth_int8": False}
    runner = tiny_runner(tmp_path, dtype="bfloat16", **settings)
    held = sum(tensor.nbytes for tensor in tensors_in(runner.model, {id(runner.model.rope)}))
    assert runner.memory_use.weight_bytes == held
    assert f"weights {held:,} bytes" in str(runner.memory_use)


def test_each_layout_is_listed_with_its_bytes() -> None:
    layers = PlainLayers()
    layers.embedding(torch.zeros(10, 4))
    layers.linear(Affine(torch.zeros(3, 4), torch.zeros(3)))
    layers.linear(Affine(torch.zeros(10, 4)), part="head")
    layers.rms_norm(torch.zeros(4), 1e-5)
    assert layers.held.bytes_by_layout == {
        "embedding, plain": 160,
        "linear, plain": 60,
        "head, plain": 160,
        "norm, plain": 16,
    }
    assert layers.held.num_bytes == 396
    assert str(layers.held) == "embedding, plain 160; linear, plain 60; head, plain 160; norm, plain 16"


@pytest.mark.parametrize(
    ("kernels", "tied"),
    [
        ("plain", True),
        pytest.param("native", True, marks=NEEDS_NATIVE),
        pytest.param("native", False, marks=NEEDS_NATIVE),
    ],
)
def test_int8_takes_at_most_0_62_of_bfloat16_in_one_layout(kernels: str, tied: bool, tmp_path: Path) -> None:
    """Sizes in whole tiles, as trained models have them: padding is no part of the question."""
    sizes = {"hidden_size": 192, "intermediate_size": 512, "head_dim": 64, "num_attention_heads": 3}
    model = TinyModel("llama", {**sizes, "num_key_value_heads": 1, "vocab_size": 512, "tie_word_embeddings": tied})
    model.write(tmp_path)
    used = tiny_runner(tmp_path, dtype="bfloat16", kernels=kernels, quantization="int8").memory_use
    assert used.weight_bytes <= 0.62 * used.stored_bytes
    assert "int8" in used.layouts
