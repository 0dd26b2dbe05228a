"""Keys and values in int8: what a cache gives back, how much of it fits, and that nothing else changes a token."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from batch_compositions import (
    Composition,
    Given,
    differences,
    given_alone,
    given_by,
    mixed_requests,
    random_composition,
)
from runner_driving import new_sequence, random_tokens, tiny_runner, whole_prompt_logits
from tiny_models import FAMILIES, VOCAB_SIZE, TinyModel
from torch import Tensor

from enginebay.engine.kernels.native.build import native_kernels
from enginebay.engine.kv_cache import KvCacheSize, allocate_kv_cache, block_bytes
from enginebay.engine.layer_cache import Int8LayerCache, int8_layer_cache
from enginebay.engine.model_config import read_model_config
from enginebay.engine.settings import EngineConfig
from enginebay.engine.setup import forecast
from enginebay.errors import ModelError

NUM_KV_HEADS, HEAD_DIM, BLOCK_SIZE = 2, 16, 4


def a_cache(dtype: torch.dtype = torch.float32) -> Int8LayerCache:
    return int8_layer_cache(
        num_blocks=6, num_kv_heads=NUM_KV_HEADS, block_size=BLOCK_SIZE, head_dim=HEAD_DIM, dtype=dtype,
        device=torch.device("cpu"),
    )  # fmt: skip


def some(num_tokens: int, *, seed: int) -> Tensor:
    return torch.randn((num_tokens, NUM_KV_HEADS, HEAD_DIM), generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- what is written


def test_what_is_read_is_off_by_at_most_half_a_step_of_its_own_token_and_head() -> None:
    cache, slots = a_cache(), torch.tensor([4, 23, 9, 10])
    keys, values = some(4, seed=1), some(4, seed=2) * torch.tensor([1.0, 1e-3, 1e3, 1.0])[:, None, None]
    cache.write(keys, values, slots)
    for exact, read in zip((keys, values), cache.read_slots(slots), strict=True):
        steps = exact.abs().amax(dim=-1, keepdim=True) / 127
        assert ((read - exact).abs() <= steps * 0.5001).all()
        assert not torch.equal(read, exact)


def test_what_write_returns_and_both_ways_of_reading_are_the_same() -> None:
    cache, slots = a_cache(torch.bfloat16), torch.arange(5, 21)
    keys, values = some(16, seed=1).bfloat16(), some(16, seed=2).bfloat16()
    written = cache.write(keys, values, slots)
    by_block = [part.flatten(0, 1)[1:17] for part in cache.read_blocks(torch.arange(1, 6))]
    for returned, by_slot, in_blocks in zip(written, cache.read_slots(slots), by_block, strict=True):
        assert returned.dtype == torch.bfloat16
        assert torch.equal(returned, by_slot)
        assert torch.equal(returned, in_blocks)


def test_a_token_is_written_as_it_would_be_alone() -> None:
    together, apart, slots = a_cache(), a_cache(), torch.tensor([7, 8, 22])
    keys, values = some(3, seed=3), some(3, seed=4)
    keys[0] *= 1000
    together.write(keys, values, slots)
    for token in range(3):
        one = slice(token, token + 1)
        apart.write(keys[one], values[one], slots[one])
    assert all(torch.equal(*parts) for parts in zip(together.tensors, apart.tensors, strict=True))


def test_only_the_slots_that_are_named_are_written() -> None:
    cache = a_cache()
    cache.write(some(1, seed=1), some(1, seed=2), torch.tensor([2 * BLOCK_SIZE + 3]))
    for part in cache.tensors:
        part[2, :, 3] = 0
        assert not part.any()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_so_until_its_block_is_cleared(value: float) -> None:
    cache, slots = a_cache(), torch.tensor([4, 5])
    keys, values = some(2, seed=1), some(2, seed=2)
    keys[0, 1, 3] = value
    cache.write(keys, values, slots)
    read, _ = cache.read_slots(slots)
    assert not read[0, 1].isfinite().any()
    assert read[0, 0].isfinite().all()
    assert read[1].isfinite().all()
    cache.clear(1)
    assert not any(part[1].any() for part in cache.tensors)


# ---------------------------------------------------------------- what fits


def test_a_block_takes_a_byte_for_each_number_and_four_for_each_scale(tmp_path: Path) -> None:
    FAMILIES["llama"].write(tmp_path)
    model, config = (
        read_model_config(tmp_path),
        EngineConfig(model_dir="", kv_cache_dtype="int8", block_size=BLOCK_SIZE),
    )
    num_bytes = block_bytes(model, config, dtype=torch.bfloat16)
    assert num_bytes == 2 * model.num_layers * BLOCK_SIZE * model.num_kv_heads * (model.head_dim + 4)
    caches = allocate_kv_cache(
        model, KvCacheSize(9, BLOCK_SIZE, num_bytes, is_int8=True), dtype=torch.bfloat16, device=torch.device("cpu")
    )
    assert sum(part.nbytes for cache in caches for part in cache.tensors) == 10 * num_bytes


def test_nearly_twice_the_blocks_are_in_the_same_bytes(tmp_path: Path) -> None:
    """Of heads of 64: 128 bytes of bfloat16 against 64 and a scale of 4."""
    TinyModel("llama", {"head_dim": 64}).write(tmp_path)
    told = {"dtype": "bfloat16", "kv_cache_bytes": 2_000_000, "max_num_seqs": 1000}
    of_bfloat16 = tiny_runner(tmp_path, num_blocks=None, **told).memory_use.kv_cache
    of_int8 = tiny_runner(tmp_path, num_blocks=None, kv_cache_dtype="int8", **told).memory_use.kv_cache
    assert of_int8.num_blocks / of_bfloat16.num_blocks == pytest.approx(128 / 68, rel=0.01)
    assert of_int8.num_bytes <= 2_000_000


def test_the_forecast_has_the_blocks_of_the_start_and_says_that_they_are_int8(tmp_path: Path) -> None:
    FAMILIES["llama"].write(tmp_path)
    runner = tiny_runner(tmp_path, kv_cache_dtype="int8", num_blocks=40)
    config = EngineConfig(
        model_dir=str(tmp_path), dtype="float32", block_size=4, num_blocks=40, kv_cache_dtype="int8", num_threads=1
    )
    found = forecast(config).memory.kv_cache
    assert found == runner.memory_use.kv_cache
    assert str(found).startswith("40 blocks of 4 tokens in int8 and one of scratch x ")


def test_a_draft_model_with_its_own_cache_has_it_in_int8_too(tmp_path: Path) -> None:
    FAMILIES["llama"].write(tmp_path)
    runner = tiny_runner(tmp_path, kv_cache_dtype="int8", speculative_draft_dir=str(tmp_path))
    alone = tiny_runner(tmp_path, kv_cache_dtype="int8").memory_use.kv_cache
    assert runner.memory_use.kv_cache.block_bytes == 2 * alone.block_bytes
    assert runner.draft is not None
    assert all(isinstance(cache, Int8LayerCache) for cache in runner.draft.caches)


@pytest.mark.parametrize("name", ["fp8", "bfloat16", "INT8"])
def test_another_type_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    FAMILIES["llama"].write(tmp_path)
    with pytest.raises(ModelError, match=f"kv_cache_dtype '{name}' is not supported; use auto.* or int8"):
        tiny_runner(tmp_path, kv_cache_dtype=name)


# ---------------------------------------------------------------- what comes of it


@pytest.mark.parametrize("settings", [{}, {"batch_invariant": True}, {"dtype": "bfloat16"}])
def test_chunks_read_what_the_whole_prompt_reads(settings: dict[str, object], tmp_path: Path) -> None:
    """A prompt computed at once could use its keys before they are rounded: later tokens could not."""
    FAMILIES["qwen2, window in the upper layers"].write(tmp_path)
    runner = tiny_runner(tmp_path, kv_cache_dtype="int8", **settings)
    tokens = random_tokens(40, vocab_size=VOCAB_SIZE, seed=0)
    whole = whole_prompt_logits(runner, new_sequence(tokens, range(1, 12)))
    chunked = whole_prompt_logits(runner, new_sequence(tokens, range(20, 31)), [21, 1, 6])
    rounding = 0.02 if settings.get("dtype") == "bfloat16" else 1e-4
    assert torch.allclose(whole, chunked, rtol=0, atol=rounding * float(whole.abs().max()))
    plain = whole_prompt_logits(tiny_runner(tmp_path, **settings), new_sequence(tokens, range(1, 12)))
    assert not torch.equal(whole, plain)
    assert torch.allclose(whole, plain, rtol=0, atol=0.05 * float(plain.abs().max()))


REQUESTS = mixed_requests(num_requests=12, vocab_size=VOCAB_SIZE, seed=1)
FORMS = {
    "native": (TinyModel("llama", {"head_dim": 16}), {"dtype": "bfloat16", "kernels": "native"}),
    "native int8": (
        TinyModel("mistral", {"head_dim": 32, "sliding_window": 20}),
        {"dtype": "bfloat16", "kernels": "native", "quantization": "int8"},
    ),
    "plain": (FAMILIES["qwen2, window in the upper layers"], {"dtype": "float32", "kernels": "plain"}),
}


@pytest.fixture(scope="module", params=FORMS)
def form(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, object], dict[str, Given]]:
    if "native" in request.param and native_kernels().operators is None:
        pytest.skip(f"native kernels: {native_kernels().why_not}")
    directory = tmp_path_factory.mktemp("model")
    tiny, settings = FORMS[request.param]
    tiny.write(directory)
    told: dict[str, object] = {**settings, "kv_cache_dtype": "int8"}
    return directory, told, given_alone(directory, REQUESTS, **told)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_request_gets_to_the_bit_what_it_gets_alone(
    form: tuple[Path, dict[str, object], dict[str, Given]], seed: int
) -> None:
    """Whoever runs beside it, however its prompt is chunked, preempted or not, resumed from blocks of others or not."""
    directory, settings, alone = form
    requests, composition = random_composition(REQUESTS, seed=seed)
    given = given_by(directory, requests, Composition({**composition.settings, **settings}, composition.add_at_step))
    assert differences(given, alone) == []


@pytest.mark.parametrize(
    "changed",
    [
        {"enable_prefix_caching": True},
        {"speculative_ngram": 3},
        {"speculative_self_draft": "first_layers:2"},
        {"num_blocks": 24},
    ],
)
def test_prefixes_drafts_and_preemption_change_no_token(
    form: tuple[Path, dict[str, object], dict[str, Given]], changed: dict[str, object]
) -> None:
    directory, settings, alone = form
    beside = {"max_num_seqs": 5, "max_num_batched_tokens": 17, "num_blocks": 200, "enable_prefix_caching": False}
    given = given_by(directory, REQUESTS, Composition({**beside, **settings, "speculative_adaptive": False, **changed}))
    assert differences(given, alone) == []
    if "enable_prefix_caching" in changed:
        assert sum(mine.num_cached_tokens for mine in given.values()) > 0
    if "num_blocks" in changed:
        assert sum(mine.num_preemptions for mine in given.values()) > 0


def test_another_cache_gives_other_logits(form: tuple[Path, dict[str, object], dict[str, Given]]) -> None:
    """What the tests above would miss if the setting did nothing."""
    directory, settings, alone = form
    given = given_alone(directory, REQUESTS[:3], **{**settings, "kv_cache_dtype": "auto"})
    assert differences(given, alone) == [request.request_id for request in REQUESTS[:3]]
