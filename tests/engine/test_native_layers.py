"""The native layers against the plain ones, on CPUs that have AMX; every row is computed as if it were alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from enginebay.engine.attention import AttentionInput, DecodeGroup, PagedRows, PlainAttention
from enginebay.engine.kernels.int8 import PlainInt8Layers
from enginebay.engine.kernels.native.build import native_kernels
from enginebay.engine.kernels.native.layers import NativeLayers
from enginebay.engine.layer_cache import LayerCache, PlainLayerCache
from enginebay.engine.layers import Affine, PlainLayers
from enginebay.engine.model_config import ACTIVATIONS, Activation
from enginebay.engine.quantization import quantize_rows

pytestmark = pytest.mark.skipif(native_kernels().operators is None, reason=native_kernels().why_not or "they are here")

ROUNDING = 2**-8
"""bfloat16 keeps 8 bits: one rounding to the nearest is off by at most half of this."""
SIZES = [(48, 64), (96, 576), (7, 33), (33, 7), (17, 130), (64, 31), (1, 1)]
NUM_ROWS = [1, 2, 15, 16, 17, 31, 32, 33, 65]


def native(*, is_int8: bool = False) -> NativeLayers:
    return NativeLayers(native_kernels().operators, is_int8=is_int8)


def random(*shape: int, seed: int) -> Tensor:
    return (torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.3).bfloat16()


def affine(num_out: int, num_in: int, *, bias: bool, seed: int = 1) -> Affine:
    return Affine(random(num_out, num_in, seed=seed), random(num_out, seed=seed + 1) if bias else None)


def as_double(layer: Affine) -> Any:
    return Affine(layer.weight.double(), None if layer.bias is None else layer.bias.double())


def assert_close(found: Tensor, exact: Tensor, *, num_roundings: int) -> None:
    """Of the largest value: sums in float32 add less than one more rounding of the result."""
    assert found.dtype == torch.bfloat16
    assert found.shape == exact.shape
    allowed = num_roundings * ROUNDING * float(exact.abs().max())
    assert float((found.double() - exact).abs().max()) <= allowed


# ---------------------------------------------------------------- products


@pytest.mark.parametrize(("num_out", "num_in"), SIZES)
@pytest.mark.parametrize("bias", [False, True])
def test_a_bfloat16_product_is_exact_but_for_its_last_rounding(num_out: int, num_in: int, bias: bool) -> None:
    layer = affine(num_out, num_in, bias=bias)
    linear, exact = native().linear(layer), PlainLayers().linear(as_double(layer))
    for num_rows in NUM_ROWS:
        hidden, residual = random(num_rows, num_in, seed=3), random(num_rows, num_out, seed=4)
        assert_close(linear.forward(hidden), exact.forward(hidden.double()), num_roundings=1)
        added = exact.forward_added(hidden.double(), residual.double())
        assert_close(linear.forward_added(hidden, residual), added, num_roundings=1)


@pytest.mark.parametrize(("num_out", "num_in"), SIZES)
@pytest.mark.parametrize("bias", [False, True])
def test_an_int8_product_is_that_of_the_plain_int8_layer(num_out: int, num_in: int, bias: bool) -> None:
    """The integers and their sums are the same; scales are applied in another order, so both may round apart."""
    layer = affine(num_out, num_in, bias=bias)
    linear, plain = native(is_int8=True).linear(layer), PlainInt8Layers("int8").linear(layer)
    for num_rows in NUM_ROWS:
        hidden, residual = random(num_rows, num_in, seed=3), random(num_rows, num_out, seed=4)
        assert_close(linear.forward(hidden), plain.forward(hidden).double(), num_roundings=2)
        assert (linear.forward(hidden) != plain.forward(hidden)).float().mean() < 0.001
        added = plain.forward(hidden).double() + residual.double()
        assert_close(linear.forward_added(hidden, residual), added, num_roundings=3)


def test_the_integers_of_int8_are_summed_without_an_error() -> None:
    """With scales of powers of two, and sums below 2^24, nothing rounds before the end."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (40, 200), generator=generator)
    rows = torch.randint(-127, 128, (19, 200), generator=generator)
    weight[:, 0], rows[:, 0] = 127, 127  # so that both scales are 1
    linear = native(is_int8=True).linear(Affine(weight.bfloat16()))
    assert torch.equal(linear.forward(rows.bfloat16()), (rows @ weight.T).float().bfloat16())


@pytest.mark.parametrize("activation", sorted(set(ACTIVATIONS.values())))
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("inner", "hidden_size"), [(80, 48), (37, 30), (16, 64)])
def test_an_mlp_is_the_plain_one(activation: Activation, bias: bool, inner: int, hidden_size: int) -> None:
    gate, up = affine(inner, hidden_size, bias=bias, seed=1), affine(inner, hidden_size, bias=bias, seed=3)
    down = affine(hidden_size, inner, bias=bias, seed=5)
    mlp = native().gated_mlp(gate, up, down=down, activation=activation)
    exact = PlainLayers().gated_mlp(as_double(gate), as_double(up), down=as_double(down), activation=activation)
    for num_rows in (1, 9, 33):
        hidden, residual = random(num_rows, hidden_size, seed=7), random(num_rows, hidden_size, seed=8)
        # with another activation: gate, activated, up and their product are rounded, then the result
        assert_close(mlp.forward(hidden), exact.forward(hidden.double()), num_roundings=3)
        added = exact.forward_added(hidden.double(), residual.double())
        assert_close(mlp.forward_added(hidden, residual), added, num_roundings=3)


def test_an_int8_mlp_is_as_close_as_the_plain_int8_one() -> None:
    gate, up, down = (
        affine(*shape, bias=False, seed=seed) for shape, seed in (((80, 48), 1), ((80, 48), 3), ((48, 80), 5))
    )
    hidden = random(33, 48, seed=7)
    exact = PlainLayers().gated_mlp(as_double(gate), as_double(up), down=as_double(down), activation="silu")
    wanted = exact.forward(hidden.double())
    found = native(is_int8=True).gated_mlp(gate, up, down=down, activation="silu").forward(hidden)
    plain = PlainInt8Layers("int8").gated_mlp(gate, up, down=down, activation="silu").forward(hidden)
    assert float((found - wanted).abs().mean()) < 1.2 * float((plain - wanted).abs().mean())


def test_an_embedding_gives_the_rows_of_its_weight_and_its_head_their_products() -> None:
    weight, ids = random(50, 33, seed=1), torch.tensor([0, 49, 17, 17, 16, 15])
    embedding = native().embedding(weight)
    assert torch.equal(embedding.forward(ids), weight[ids])
    hidden = random(5, 33, seed=2)
    assert_close(embedding.head().forward(hidden), hidden.double() @ weight.double().T, num_roundings=1)
    quantized = quantize_rows(weight)
    restored = (quantized.values.float() * quantized.scales[:, None]).bfloat16()
    assert torch.equal(native(is_int8=True).embedding(weight).forward(ids), restored[ids])


def test_an_id_outside_the_embedding_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="outside the embedding"):
        native().embedding(random(50, 33, seed=1)).forward(torch.tensor([5000]))


@pytest.mark.parametrize("shape", [(1, 64), (40, 33), (5, 3, 16), (2, 1)])
def test_a_norm_is_the_plain_one(shape: tuple[int, ...]) -> None:
    hidden, weight = random(*shape, seed=1), random(shape[-1], seed=2)
    exact = PlainLayers().rms_norm(weight.double(), 1e-5).forward(hidden.double())
    assert_close(native().rms_norm(weight, 1e-5).forward(hidden), exact, num_roundings=1)


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize("is_int8", [False, True])
def test_a_row_is_the_same_bit_for_bit_whatever_stands_beside_it(is_int8: bool) -> None:
    layers = native(is_int8=is_int8)
    linear = layers.linear(affine(70, 130, bias=True))
    shapes = ((90, 130, 3), (90, 130, 5), (130, 90, 7))
    gate, up, down = (affine(out, size, bias=False, seed=seed) for out, size, seed in shapes)
    mlp = layers.gated_mlp(gate, up, down=down, activation="silu")
    norm = layers.rms_norm(random(130, seed=9), 1e-5)
    hidden = random(65, 130, seed=11)
    for layer in (linear, mlp, norm):
        together = layer.forward(hidden)
        for first, last in ((0, 1), (3, 5), (10, 26), (31, 64), (64, 65)):
            assert torch.equal(layer.forward(hidden[first:last]), together[first:last])


@pytest.mark.parametrize("is_int8", [False, True])
def test_more_rows_than_a_cache_holds_are_each_what_they_are_alone(is_int8: bool) -> None:
    linear = native(is_int8=is_int8).linear(affine(70, 1030, bias=True))
    hidden = random(541, 1030, seed=3)  # several blocks of rows, and a last one that is not full
    together = linear.forward(hidden)
    for first, last in ((0, 40), (100, 300), (512, 541), (540, 541)):
        assert torch.equal(linear.forward(hidden[first:last]), together[first:last])


@pytest.mark.parametrize("is_int8", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_not_finite_stays_so_and_spoils_no_other(is_int8: bool, value: float) -> None:
    linear = native(is_int8=is_int8).linear(affine(48, 64, bias=False))
    hidden = random(20, 64, seed=1)
    whole = linear.forward(hidden)
    hidden[7, 3] = value
    spoilt = linear.forward(hidden)
    assert not spoilt[7].isfinite().any()
    others = [row for row in range(20) if row != 7]
    assert torch.equal(spoilt[others], whole[others])


@pytest.mark.parametrize("is_int8", [False, True])
def test_rows_of_zeros_give_zeros_or_the_bias(is_int8: bool) -> None:
    layer = affine(48, 64, bias=True)
    assert layer.bias is not None
    found = native(is_int8=is_int8).linear(layer).forward(torch.zeros(3, 64, dtype=torch.bfloat16))
    assert torch.equal(found, layer.bias.expand(3, -1))


@pytest.mark.parametrize("is_int8", [False, True])
def test_rows_may_lie_apart_in_memory(is_int8: bool) -> None:
    linear = native(is_int8=is_int8).linear(affine(48, 64, bias=False))
    wide, wide_residual = random(20, 100, seed=1), random(20, 60, seed=2)
    hidden, residual = wide[:, 10:74], wide_residual[:, :48]
    assert not hidden.is_contiguous()
    assert torch.equal(linear.forward(hidden), linear.forward(hidden.contiguous()))
    apart = linear.forward_added(hidden[::2], residual[::2])
    assert torch.equal(apart, linear.forward_added(hidden[::2].contiguous(), residual[::2].contiguous()))
    norm = native().rms_norm(random(64, seed=3), 1e-5)
    assert torch.equal(norm.forward(hidden), norm.forward(hidden.contiguous()))


# ---------------------------------------------------------------- attention


def caches(num_kv_heads: int, head_dim: int) -> tuple[LayerCache, LayerCache]:
    """Two with the same contents: 12 blocks of 4."""
    keys, values = (random(12, 4, num_kv_heads, head_dim, seed=seed) for seed in (1, 2))
    return PlainLayerCache(keys, values), PlainLayerCache(keys.clone(), values.clone())


def decode_step(spans: list[tuple[int, int]]) -> AttentionInput:
    """Rows that see positions [begin, end) of tables whose first block begins at position 4 * (begin // 4)."""
    tables = [[3, 7, 1], [2, 11, 4], [9, 5, 8]][: len(spans)]
    starts = torch.tensor([begin // 4 * 4 for begin, _ in spans])
    begins, ends = torch.tensor(spans).T
    positions = starts[:, None] + torch.arange(12)
    is_seen = (positions >= begins[:, None]) & (positions < ends[:, None])
    offsets = ends - 1 - starts
    table = torch.tensor(tables)
    slots = table.gather(1, (offsets // 4)[:, None])[:, 0] * 4 + offsets % 4
    mask = torch.where(is_seen, 0.0, float("-inf")).bfloat16()[:, None, None]
    group = DecodeGroup(slice(0, len(spans)), table, mask)
    paged = PagedRows(table, starts, torch.arange(len(spans)), begins.contiguous(), ends.contiguous())
    return AttentionInput(slots, {None: [group]}, {None: []}, {None: paged})


@pytest.mark.parametrize("head_dim", [16, 32, 64, 128, 256])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(6, 2), (3, 3), (9, 3)])
@pytest.mark.parametrize("spans", [[(0, 1)], [(0, 12), (0, 5), (0, 9)], [(6, 14), (3, 7), (5, 6)]])
def test_decode_attention_is_the_plain_one(
    head_dim: int, num_heads: int, num_kv_heads: int, spans: list[tuple[int, int]]
) -> None:
    """Windows too: rows that see less than their blocks hold. Keys and values are written on the way."""
    num_rows = len(spans)
    qkv = random(num_rows, num_heads + 2 * num_kv_heads, head_dim, seed=5)
    halves = torch.rand(num_rows, head_dim // 2, generator=torch.Generator().manual_seed(6)) * 3
    angles = torch.cat((halves, halves), dim=1)[:, None]
    turned = (angles.cos().bfloat16(), angles.sin().bfloat16())
    of_native, of_plain = caches(num_kv_heads, head_dim)
    step = decode_step(spans)
    told: dict[str, Any] = {"num_heads": num_heads, "step": step, "window": None}
    kernel = native().attention_kernel()
    found = kernel.attend(qkv.clone(), turned, cache=of_native, **told)
    plain = PlainAttention().attend(qkv.clone(), turned, cache=of_plain, **told)
    assert_close(found, plain.double(), num_roundings=4)  # plain rounds its scores, its weights and the turned keys
    assert_close(of_native.keys, of_plain.keys.double(), num_roundings=2)
    assert torch.equal(of_native.values, of_plain.values)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"slots": [12 * 4]}, "slot 48 is outside"),
        ({"slots": [-1]}, "slot -1 is outside"),
        ({"blocks": [[3, 12, 1]]}, "names a block outside"),
        ({"blocks": [[3, -1, 1]]}, "names a block outside"),
        ({"begins": [0], "ends": [13]}, "which its blocks do not hold"),
        ({"begins": [5], "ends": [5]}, "which its blocks do not hold"),
        ({"sequence_of": [1]}, "which its blocks do not hold"),
    ],
)
def test_what_points_outside_the_cache_is_an_error_and_touches_no_memory(
    broken: dict[str, list[int]], message: str
) -> None:
    told = {"slots": [13], "blocks": [[3, 7, 1]], "begins": [0], "ends": [6], "sequence_of": [0], **broken}
    given = {name: torch.tensor(values) for name, values in told.items()}
    paged = PagedRows(given["blocks"], torch.tensor([0]), given["sequence_of"], given["begins"], given["ends"])
    step = AttentionInput(given["slots"], paged_rows={None: paged})
    turned = torch.ones(1, 1, 16, dtype=torch.bfloat16)
    cache, _ = caches(num_kv_heads=2, head_dim=16)
    with pytest.raises(RuntimeError, match=message):
        native().attention_kernel().attend(
            random(1, 10, 16, seed=5), (turned, turned), num_heads=6, cache=cache, step=step, window=None
        )


def test_sizes_that_do_not_belong_together_are_an_error() -> None:
    linear = native().linear(affine(48, 64, bias=False))
    with pytest.raises(RuntimeError, match="a product of 130 inputs"):
        linear.forward(random(3, 130, seed=1))
    with pytest.raises(RuntimeError):
        linear.forward_added(random(3, 64, seed=1), random(2, 48, seed=2))
