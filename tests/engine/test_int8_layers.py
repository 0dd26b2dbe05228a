"""int8 in plain PyTorch: against exact arithmetic, with every size, and in the forms that CUDA takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runner_driving import tiny_runner
from tiny_models import TinyModel
from torch import Tensor

from enginebay.engine.kernels.int8 import (
    CHUNK_ROWS,
    MOST_ROWS_OF_INTEGERS,
    PlainInt8Layers,
    WeightOnlyLinear,
    int8_product,
    padded,
    padded_int8_product,
    product_by_chunks,
)
from enginebay.engine.layers import Affine
from enginebay.engine.quantization import quantize_rows
from enginebay.errors import ModelError


def random(*shape: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3).to(dtype)


def test_quantised_rows_are_off_by_half_a_step_at_most_and_keep_what_is_not_finite() -> None:
    rows = random(9, 50, seed=1, dtype=torch.float32)
    rows[3], rows[4, 7], rows[5, 7] = 0, torch.nan, torch.inf
    values, scales = quantize_rows(rows)
    finite = [0, 1, 2, 3, 6, 7, 8]
    error = (values[finite].float() * scales[finite, None] - rows[finite]).abs()
    assert bool((error <= scales[finite, None] * 0.5001).all())
    assert scales[3] == 0
    assert not scales[[4, 5]].isfinite().any()
    assert values.abs().max() == 127


@pytest.mark.parametrize("num_rows", [1, MOST_ROWS_OF_INTEGERS, MOST_ROWS_OF_INTEGERS + 1, 65])
@pytest.mark.parametrize(("num_out", "num_in"), [(48, 64), (45, 50), (7, 40), (CHUNK_ROWS + 5, 32)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weight_only_layers_multiply_with_the_restored_weight(
    num_rows: int, num_out: int, num_in: int, dtype: torch.dtype
) -> None:
    """Whichever product the number of rows and the sizes lead to."""
    weight, bias = random(num_out, num_in, seed=1, dtype=dtype), random(num_out, seed=2, dtype=dtype)
    hidden, residual = random(num_rows, num_in, seed=3, dtype=dtype), random(num_rows, num_out, seed=4, dtype=dtype)
    layer = WeightOnlyLinear(Affine(weight, bias))
    values, scales = layer.weight
    exact = hidden.double() @ (values.double() * scales.double()[:, None]).T + bias.double()
    allowed = (4 * 2**-8 if dtype == torch.bfloat16 else 1e-5) * float(exact.abs().max())  # product, scale, bias, sum
    assert float((layer.forward(hidden).double() - exact).abs().max()) <= allowed
    added = layer.forward_added(hidden, residual).double() - residual.double() - exact
    assert float(added.abs().max()) <= 1.5 * allowed


def test_chunks_give_what_the_whole_weight_gives() -> None:
    weight = quantize_rows(random(2 * CHUNK_ROWS + 3, 16, seed=1, dtype=torch.float32))
    hidden = random(20, 16, seed=2, dtype=torch.float32)
    exact = hidden.double() @ (weight.values.double() * weight.scales.double()[:, None]).T
    assert torch.allclose(product_by_chunks(hidden, weight).double(), exact, atol=1e-5)


@pytest.mark.parametrize(("num_rows", "num_out", "num_in"), [(1, 7, 3), (16, 45, 50), (17, 48, 64), (40, 8, 9)])
def test_padding_for_cuda_changes_no_sum(num_rows: int, num_out: int, num_in: int) -> None:
    rows, weight = quantize_rows(random(num_rows, num_in, seed=1)), quantize_rows(random(num_out, num_in, seed=2))
    wide = padded(weight)
    assert wide.values.shape[0] % 8 == wide.values.shape[1] % 8 == 0
    sums = padded_int8_product(rows.values, wide.values)
    assert torch.equal(sums[:, :num_out], int8_product(rows.values, weight.values))
    assert not sums[:, num_out:].any()


@pytest.mark.parametrize("quantization", ["int8", "int8_weight_only"])
def test_an_embedding_and_its_head_share_one_weight(quantization: str) -> None:
    layers = PlainInt8Layers(quantization)  # type: ignore[arg-type]
    weight = random(30, 64, seed=1)
    embedding = layers.embedding(weight)
    held = layers.held.num_bytes
    head = embedding.head()
    assert layers.held.num_bytes == held
    found = embedding.forward(torch.tensor([3, 29, 3]))
    assert float((found - weight[[3, 29, 3]]).abs().max()) <= float(weight.abs().max()) / 127
    assert head.forward(random(2, 64, seed=2)).shape == (2, 30)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization": "int4"}, "quantization 'int4' is not known"),
        ({"quantization": "int8", "kernels": "packed"}, "packed have no int8"),
        ({"quantization": "int8_weight_only", "kernels": "native"}, "native have no int8_weight_only"),
        ({"kernels": "native", "dtype": "float32"}, "bfloat16 on the CPU; use auto"),
        ({"kernels": "packed", "dtype": "float32"}, "packed are for bfloat16"),
    ],
)
def test_what_cannot_be_had_together_is_refused(settings: dict[str, str], message: str, tmp_path: Path) -> None:
    TinyModel("llama", {"head_dim": 16}).write(tmp_path)
    with pytest.raises(ModelError, match=message):
        tiny_runner(tmp_path, **{"dtype": "bfloat16", **settings})
