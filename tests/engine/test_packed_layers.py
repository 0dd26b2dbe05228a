"""The packed layers give what the plain ones give, up to the rounding that they save."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runner_driving import new_sequence, random_tokens, tiny_runner, whole_prompt_logits
from tiny_models import FAMILIES, VOCAB_SIZE
from torch import Tensor

from enginebay.engine.kernels.packed import PackedLayers, packing_is_available
from enginebay.engine.layers import Affine, PlainLayers
from enginebay.engine.model_config import ACTIVATIONS, Activation
from enginebay.errors import ModelError

pytestmark = pytest.mark.skipif(
    not packing_is_available(torch.device("cpu"), torch.bfloat16), reason="this torch or CPU packs no bfloat16 weights"
)


def random(*shape: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype) * 0.3


def affine(out_features: int, in_features: int, *, seed: int, bias: bool) -> Affine:
    return Affine(random(out_features, in_features, seed=seed), random(out_features, seed=seed + 1) if bias else None)


def assert_close(packed: Tensor, plain: Tensor, exact: Tensor) -> None:
    """No further from the exact result than the plain layer is, or than two roundings to bfloat16."""
    assert packed.dtype == plain.dtype
    allowed = max(float((plain - exact).abs().max()), 2 * 2**-8 * float(exact.abs().max()))
    assert float((packed - exact).abs().max()) <= allowed


@pytest.mark.parametrize("num_rows", [1, 3, 33])
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_linear_layer_is_the_plain_one(num_rows: int, bias: bool) -> None:
    layer = affine(96, 64, seed=1, bias=bias)
    hidden, residual = random(num_rows, 64, seed=5), random(num_rows, 96, seed=6)
    exact = PlainLayers().linear(Affine(*(None if part is None else part.double() for part in layer)))  # type: ignore[arg-type]
    packed, plain = PackedLayers().linear(layer), PlainLayers().linear(layer)
    assert_close(packed.forward(hidden), plain.forward(hidden), exact.forward(hidden.double()))
    added = exact.forward_added(hidden.double(), residual.double())
    assert_close(packed.forward_added(hidden, residual), plain.forward_added(hidden, residual), added)


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS.values())))
@pytest.mark.parametrize("bias", [False, True])
def test_a_packed_mlp_is_the_plain_one(activation: Activation, bias: bool) -> None:
    gate, up = affine(80, 64, seed=1, bias=bias), affine(80, 64, seed=3, bias=bias)
    down = affine(64, 80, seed=5, bias=bias)
    hidden, residual = random(9, 64, seed=7), random(9, 64, seed=8)
    double = [Affine(*(None if part is None else part.double() for part in layer)) for layer in (gate, up, down)]  # type: ignore[arg-type]
    exact = PlainLayers().gated_mlp(double[0], double[1], down=double[2], activation=activation)
    packed = PackedLayers().gated_mlp(gate, up, down=down, activation=activation)
    plain = PlainLayers().gated_mlp(gate, up, down=down, activation=activation)
    assert_close(packed.forward(hidden), plain.forward(hidden), exact.forward(hidden.double()))
    added = exact.forward_added(hidden.double(), residual.double())
    assert_close(packed.forward_added(hidden, residual), plain.forward_added(hidden, residual), added)


@pytest.mark.parametrize("shape", [(1, 64), (40, 64), (5, 3, 16)])
def test_the_float32_norm_is_the_plain_one_and_leaves_its_input_alone(shape: tuple[int, ...]) -> None:
    hidden, weight = random(*shape, seed=1), random(shape[-1], seed=2)
    before = hidden.clone()
    fast, plain = PackedLayers().rms_norm(weight, 1e-5), PlainLayers().rms_norm(weight, 1e-5)
    exact = PlainLayers().rms_norm(weight.double(), 1e-5).forward(hidden.double())
    assert_close(fast.forward(hidden), plain.forward(hidden), exact)
    assert torch.equal(hidden, before)


@pytest.mark.parametrize("name", ["llama, tied embeddings", "llama, attention and mlp biases", "qwen2", "qwen3"])
def test_a_packed_model_is_as_close_to_float32_as_the_plain_one(name: str, tmp_path: Path) -> None:
    FAMILIES[name].write(tmp_path)
    sequence = new_sequence(random_tokens(40, vocab_size=VOCAB_SIZE, seed=0), range(1, 40))
    exact = whole_prompt_logits(tiny_runner(tmp_path), sequence)
    error = {
        kernels: float((whole_prompt_logits(runner, sequence, [21, 1]) - exact).abs().mean())
        for kernels in ("plain", "auto")
        if (runner := tiny_runner(tmp_path, dtype="bfloat16", kernels=kernels))
    }
    assert error["auto"] != error["plain"], "the packed layers were not used"
    assert error["auto"] < 1.3 * error["plain"]


def test_an_unknown_form_of_kernels_is_refused(tmp_path: Path) -> None:
    FAMILIES["llama"].write(tmp_path)
    with pytest.raises(ModelError, match="kernels 'magic' is not known"):
        tiny_runner(tmp_path, kernels="magic")
