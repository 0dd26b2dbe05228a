"""Native attention over keys and values in int8, against the plain cache and against exact attention over it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from enginebay.engine.attention import AttentionInput, PagedRows
from enginebay.engine.kernels.native.attention import NativeAttention
from enginebay.engine.kernels.native.build import native_kernels
from enginebay.engine.layer_cache import Int8LayerCache, int8_layer_cache

pytestmark = pytest.mark.skipif(native_kernels().operators is None, reason=native_kernels().why_not or "they are here")

OPERATORS: Any = native_kernels().operators
ROUNDING = 2**-8
"""To bfloat16, which keeps 8 bits: off by at most half of the last, of a number just above a power of two."""
NUM_BLOCKS = 24


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def a_cache(num_kv_heads: int, head_dim: int, block_size: int) -> Int8LayerCache:
    """Filled, but for the scratch block."""
    cache = int8_layer_cache(
        num_blocks=NUM_BLOCKS, num_kv_heads=num_kv_heads, block_size=block_size, head_dim=head_dim,
        dtype=torch.float64, device=torch.device("cpu"),
    )  # fmt: skip
    slots = torch.arange(block_size, NUM_BLOCKS * block_size)
    keys, values = (random(len(slots), num_kv_heads, head_dim, seed=seed).double() for seed in (1, 2))
    cache.write(keys, values, slots)
    return cache


def rows_of(spans: list[list[tuple[int, int]]], *, block_size: int) -> AttentionInput:
    """spans: of each sequence, what each of its rows sees; the last position of a row is its own."""
    num_blocks = (NUM_BLOCKS - 1) // len(spans)
    free = torch.randperm(NUM_BLOCKS - 1, generator=torch.Generator().manual_seed(7)) + 1
    tables = free[: num_blocks * len(spans)].view(len(spans), num_blocks).contiguous()
    sequence_of = torch.tensor([index for index, rows in enumerate(spans) for _ in rows])
    begins, ends = torch.tensor([span for rows in spans for span in rows]).T.contiguous()
    own = ends - 1
    slots = tables[sequence_of].gather(1, (own // block_size)[:, None])[:, 0] * block_size + own % block_size
    paged = PagedRows(tables, torch.zeros(len(spans), dtype=torch.long), sequence_of, begins, ends)
    return AttentionInput(slots, paged_rows={None: paged})


def attended(qkv: Tensor, cache: Int8LayerCache, step: AttentionInput, *, num_heads: int) -> Tensor:
    """qkv is turned in place."""
    halves = torch.rand(len(qkv), qkv.shape[-1] // 2, generator=torch.Generator().manual_seed(6)) * 3
    angles = torch.cat((halves, halves), dim=1)[:, None]
    turned = angles.cos().bfloat16(), angles.sin().bfloat16()
    kernel = NativeAttention(OPERATORS)
    return kernel.attend(qkv, turned, num_heads=num_heads, cache=cache, step=step, window=None)


def exactly(queries: Tensor, cache: Int8LayerCache, step: AttentionInput) -> Tensor:
    """Over what the cache gives back, in float64."""
    rows, answers = step.paged_rows[None], []
    for query, sequence, begin, end in zip(queries.double(), rows.sequence_of, rows.begins, rows.ends, strict=True):
        keys, values = (
            part.flatten(0, 1)[begin:end].repeat_interleave(len(query) // cache.num_kv_heads, dim=1)
            for part in cache.read_blocks(rows.block_tables[sequence])
        )
        weights = (torch.einsum("hd,khd->hk", query, keys) * query.shape[-1] ** -0.5).softmax(dim=-1)
        answers.append(torch.einsum("hk,khd->hd", weights, values).flatten())
    return torch.stack(answers)


SPANS = {
    "a context of one token": [[(0, 1)]],
    "decode rows": [[(0, 17)], [(0, 1)], [(0, 28)]],
    "windows": [[(9, 25)], [(16, 17)], [(3, 28)]],
    "drafts beside a decode row": [[(0, end) for end in range(14, 19)], [(0, 11)]],
    "a prompt": [[(0, end) for end in range(1, 27)]],
}


@pytest.mark.parametrize("head_dim", [16, 48, 64, 128, 256])
@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(3, 3), (9, 3), (16, 1)])
@pytest.mark.parametrize("block_size", [4, 16])
@pytest.mark.parametrize("spans", SPANS)
def test_it_is_exact_but_for_the_rounding_of_its_weights_and_its_result(
    head_dim: int, num_heads: int, num_kv_heads: int, block_size: int, spans: str
) -> None:
    """Two roundings to bfloat16; queries of 16 bits are off by less."""
    cache, step = a_cache(num_kv_heads, head_dim, block_size), rows_of(SPANS[spans], block_size=block_size)
    qkv = random(len(step.slot_mapping), num_heads + 2 * num_kv_heads, head_dim, seed=5)
    found = attended(qkv, cache, step, num_heads=num_heads)
    exact = exactly(qkv[:, :num_heads], cache, step)
    assert found.dtype == torch.bfloat16
    assert float((found.double() - exact).abs().max()) <= 2 * ROUNDING * float(exact.abs().max())


@pytest.mark.parametrize("block_size", [8, 24, 32, 48])
@pytest.mark.parametrize("spans", SPANS)
def test_blocks_of_any_size_give_the_same(block_size: int, spans: str) -> None:
    """Of half a tile of keys, of one and a half, of two and of three."""
    cache, step = a_cache(3, 64, block_size), rows_of(SPANS[spans], block_size=block_size)
    qkv = random(len(step.slot_mapping), 15, 64, seed=5)
    found = attended(qkv, cache, step, num_heads=9)
    exact = exactly(qkv[:, :9], cache, step)
    assert float((found.double() - exact).abs().max()) <= 2 * ROUNDING * float(exact.abs().max())


@pytest.mark.parametrize("block_size", [4, 8, 16, 32])
def test_tables_that_begin_with_the_window_are_read_from_there(block_size: int) -> None:
    """As a step gives them: cut at a multiple of 32 positions, and of the blocks."""
    spans = [[(70, end) for end in range(72, 88)], [(64, 81)]] if block_size > 4 else [[(33, 44)], [(32, 41)]]
    cache, step = a_cache(3, 64, block_size), rows_of(spans, block_size=block_size)
    rows = step.paged_rows[None]
    start = int(rows.begins.min()) // 32 * 32
    cut = PagedRows(
        rows.block_tables[:, start // block_size :].contiguous(), torch.full((len(spans),), start), rows.sequence_of,
        rows.begins, rows.ends,
    )  # fmt: skip
    qkv = random(len(step.slot_mapping), 15, 64, seed=5)
    found = attended(qkv, cache, AttentionInput(step.slot_mapping, paged_rows={None: cut}), num_heads=9)
    exact = exactly(qkv[:, :9], cache, step)
    assert float((found.double() - exact).abs().max()) <= 2 * ROUNDING * float(exact.abs().max())


def over_values(query: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """query: (1, num_heads, head_dim); keys, values: (num_tokens, 1, head_dim). What the kernel gives, and exactly."""
    cache = int8_layer_cache(
        num_blocks=NUM_BLOCKS, num_kv_heads=1, block_size=16, head_dim=query.shape[-1], dtype=torch.float64,
        device=torch.device("cpu"),
    )  # fmt: skip
    step = rows_of([[(0, len(keys))]], block_size=16)
    rows = step.paged_rows[None]
    slots = (rows.block_tables[0][:, None] * 16 + torch.arange(16)).flatten()
    cache.write(keys.double(), values.double(), slots[: len(keys)])
    found = OPERATORS.paged_attention(
        query, cache.tensors, rows.block_tables, rows.starts, rows.sequence_of, rows.begins, rows.ends,
        query.shape[-1] ** -0.5,
    )  # fmt: skip
    return found.double(), exactly(query, cache, step)


def test_the_largest_sums_that_there_can_be_fit_into_their_integers() -> None:
    """256 products of the largest integer of a key with that of a query, of either sign: nearly 2 ** 30."""
    signs = torch.tensor([1.0, -1.0, 0.0])[:, None, None]
    query = torch.ones(1, 2, 256, dtype=torch.bfloat16) * 2**-5
    query[:, 1] *= -1
    found, exact = over_values(query, signs.expand(3, 1, 256) * 2.0, torch.eye(3, 256)[:, None])
    weights = torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]]).double().softmax(dim=-1)
    for answer in (found, exact):
        assert torch.allclose(answer.view(2, 256)[:, :3], weights, rtol=2 * ROUNDING, atol=0)


def test_to_a_query_of_zeros_all_keys_are_alike() -> None:
    keys, values = (random(37, 1, 64, seed=seed).double() for seed in (1, 2))
    found, exact = over_values(torch.zeros(1, 3, 64, dtype=torch.bfloat16), keys, values)
    assert float((found - exact).abs().max()) <= 2 * ROUNDING * float(exact.abs().max())
    assert torch.allclose(exact.view(3, 64), values.mean(dim=0).expand(3, 64), atol=0.01)


def test_a_query_that_is_not_finite_gives_nothing_finite_and_spoils_no_other() -> None:
    keys, values = (random(37, 1, 64, seed=seed).double() for seed in (1, 2))
    query = random(1, 3, 64, seed=3)
    whole = over_values(query, keys, values)[0].view(3, 64)
    for value in (float("nan"), float("inf")):
        spoilt = query.clone()
        spoilt[0, 1, 5] = value
        found = over_values(spoilt, keys, values)[0].view(3, 64)
        assert not found[1].isfinite().any()
        assert torch.equal(found[[0, 2]], whole[[0, 2]])


@pytest.mark.parametrize("head_dim", [16, 64, 128])
@pytest.mark.parametrize("block_size", [4, 16])
def test_what_it_writes_is_to_the_bit_what_the_plain_cache_writes(head_dim: int, block_size: int) -> None:
    native, plain = (a_cache(3, head_dim, block_size) for _ in range(2))
    step = rows_of(SPANS["a prompt"], block_size=block_size)
    qkv = random(len(step.slot_mapping), 15, head_dim, seed=5)
    qkv[3, 9:12] = 0
    attended(qkv, native, step, num_heads=9)
    plain.write(qkv[:, 9:12], qkv[:, 12:], step.slot_mapping)
    assert all(torch.equal(*parts) for parts in zip(native.tensors, plain.tensors, strict=True))


@pytest.mark.parametrize("block_size", [4, 16])
def test_a_row_is_the_same_bit_for_bit_whatever_stands_beside_it(block_size: int) -> None:
    spans = [*SPANS["drafts beside a decode row"], [(0, end) for end in range(5, 12)]]
    together = rows_of(spans, block_size=block_size)
    cache, qkv = a_cache(3, 64, block_size), random(13, 15, 64, seed=5)
    whole = attended(qkv, cache, together, num_heads=9)
    rows = together.paged_rows[None]
    for row in range(len(qkv)):
        one = slice(row, row + 1)
        alone = OPERATORS.paged_attention(
            qkv[one, :9], cache.tensors, rows.block_tables, rows.starts, rows.sequence_of[one].contiguous(),
            rows.begins[one], rows.ends[one], 64**-0.5,
        )  # fmt: skip
        assert torch.equal(alone, whole[one])


def test_a_few_large_weights_do_not_swallow_the_many_small_ones() -> None:
    """One key in 300 has nearly all of the weight; what the others add together is not lost."""
    cache = int8_layer_cache(
        num_blocks=NUM_BLOCKS, num_kv_heads=1, block_size=16, head_dim=16, dtype=torch.float64,
        device=torch.device("cpu"),
    )  # fmt: skip
    keys, values = torch.zeros(368, 1, 16), torch.ones(368, 1, 16)
    keys[0, 0, 0], values[0] = 44.0, 0.0  # a score of 11 against 0
    step = rows_of([[(0, 300)]], block_size=16)
    blocks = step.paged_rows[None].block_tables[0]
    slots = (blocks[:, None] * 16 + torch.arange(16)).flatten()
    cache.write(keys.double(), values.double(), slots)
    query = torch.zeros(1, 1, 16, dtype=torch.bfloat16)
    query[0, 0, 0] = 1.0
    rows = step.paged_rows[None]
    found = OPERATORS.paged_attention(
        query, cache.tensors, rows.block_tables, rows.starts, rows.sequence_of, rows.begins, rows.ends, 0.25
    )
    exact = exactly(query, cache, step)
    assert float(exact.max()) == pytest.approx(299 / (299 + 59874), rel=0.01)
    assert found.double().flatten().numpy() == pytest.approx(exact.flatten().numpy(), rel=2 * ROUNDING)


def test_a_token_that_is_not_finite_spoils_its_own_head_and_only_where_it_is_seen() -> None:
    cache, step = a_cache(3, 64, 16), rows_of(SPANS["windows"], block_size=16)
    qkv = random(3, 15, 64, seed=5)
    whole = attended(qkv.clone(), cache, step, num_heads=9)
    table = step.paged_rows[None].block_tables[0]
    for key, is_seen in ((8, False), (10, True)):
        cache.key_scales[table[key // 16], 1, key % 16] = float("nan")
        spoilt = attended(qkv.clone(), cache, step, num_heads=9).view(3, 3, -1)
        assert spoilt[0, 1].isnan().any() == is_seen
        spoilt[0, 1] = whole.view(3, 3, -1)[0, 1]
        assert torch.equal(spoilt, whole.view(3, 3, -1))


@pytest.mark.parametrize("broken", ["three tensors", "keys of bfloat16", "scales of another shape"])
def test_tensors_that_are_no_cache_are_an_error(broken: str) -> None:
    cache, step = a_cache(3, 64, 16), rows_of(SPANS["decode rows"], block_size=16)
    keys, values, key_scales, value_scales = cache.tensors
    tensors = {
        "three tensors": (keys, values, key_scales),
        "keys of bfloat16": (keys.bfloat16(), values.bfloat16(), key_scales, value_scales),
        "scales of another shape": (keys, values, key_scales[:, :2], value_scales),
    }[broken]
    rows = step.paged_rows[None]
    with pytest.raises(RuntimeError):
        OPERATORS.paged_attention(
            random(3, 9, 64, seed=5), tensors, rows.block_tables, rows.starts, rows.sequence_of, rows.begins, rows.ends,
            0.125,
        )  # fmt: skip
