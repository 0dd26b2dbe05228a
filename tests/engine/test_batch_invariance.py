"""batch_invariant: what a request gets is, to the bit, what it gets alone; and what it gets without the option."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from batch_compositions import (
    Composition,
    Given,
    differences,
    engine_config,
    given_alone,
    given_by,
    mixed_requests,
    random_composition,
    resumed,
)
from tiny_models import FAMILIES, ROPE_TYPES, VOCAB_SIZE, TinyModel

from enginebay.backends.reference.options import ReferenceOptions
from enginebay.engine.filters import Filters
from enginebay.engine.kernels.native.build import native_kernels
from enginebay.engine.logprobs import position_logprobs
from enginebay.engine.model_runner import ModelRunner
from enginebay.engine.request import EngineRequest
from enginebay.errors import ConfigError

MODELS = {
    "native": (TinyModel("llama", {"head_dim": 16}), {"dtype": "bfloat16", "kernels": "native"}),
    "native int8": (
        TinyModel("llama", {"head_dim": 16}),
        {"dtype": "bfloat16", "kernels": "native", "quantization": "int8"},
    ),
    "native, window and another activation": (
        TinyModel("mistral", {"head_dim": 16, "sliding_window": 20, "hidden_act": "gelu_pytorch_tanh"}),
        {"dtype": "bfloat16", "kernels": "native"},
    ),
    "plain float32": (FAMILIES["qwen2, window in the upper layers"], {"dtype": "float32"}),
    "plain bfloat16": (FAMILIES["qwen3"], {"dtype": "bfloat16", "kernels": "plain"}),
    "plain int8": (FAMILIES["llama, tied embeddings"], {"dtype": "float32", "quantization": "int8"}),
    "plain int8 weights": (FAMILIES["llama"], {"dtype": "float32", "quantization": "int8_weight_only"}),
}
REQUESTS = mixed_requests(num_requests=16, vocab_size=VOCAB_SIZE, seed=1)
PREEMPTING_AND_CACHING = 2
"""Seed of a composition in which requests are preempted and prefixes found."""


@dataclass(frozen=True)
class Model:
    directory: Path
    settings: Mapping[str, object]
    alone: dict[str, Given]


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    if "native" in request.param and native_kernels().operators is None:
        pytest.skip(f"native kernels: {native_kernels().why_not}")
    directory = tmp_path_factory.mktemp("model")
    tiny, settings = MODELS[request.param]
    tiny.write(directory)
    alone = given_alone(directory, REQUESTS, **settings)
    return Model(directory, settings, alone)


def composed(model: Model, *, seed: int, **settings: object) -> tuple[list[EngineRequest], Composition]:
    requests, composition = random_composition(REQUESTS, seed=seed)
    return requests, replace(composition, settings={**composition.settings, **model.settings, **settings})


@pytest.mark.parametrize("seed", [1, PREEMPTING_AND_CACHING])
def test_a_request_gets_to_the_bit_what_it_gets_alone(model: Model, seed: int) -> None:
    """Whoever runs beside it, whatever the policy, the chunks, the prefix cache, the memory and the threads."""
    given = assert_same_as_alone(model, seed=seed)
    if seed == PREEMPTING_AND_CACHING:
        assert sum(mine.num_preemptions for mine in given.values()) > 0
        assert sum(mine.num_cached_tokens for mine in given.values()) > 0


@pytest.mark.parametrize("drafts", [{"speculative_ngram": 3}, {"speculative_self_draft": "first_layers:2"}])
def test_drafts_change_nothing_of_what_a_request_gets_alone(model: Model, drafts: dict[str, object]) -> None:
    requests, composition = composed(model, seed=PREEMPTING_AND_CACHING, num_threads=1, speculative_adaptive=False)
    settings = {**composition.settings, "speculative_ngram": None, "speculative_self_draft": None, **drafts}
    given = given_by(model.directory, requests, replace(composition, settings=settings))
    assert differences(given, model.alone) == []


@pytest.mark.slow
@pytest.mark.parametrize("first_seed", [10, 20, 30, 40])
def test_forty_more_compositions_give_each_request_what_it_gets_alone(model: Model, first_seed: int) -> None:
    for seed in range(first_seed, first_seed + 10):
        assert_same_as_alone(model, seed=seed)


def assert_same_as_alone(model: Model, *, seed: int) -> dict[str, Given]:
    requests, composition = composed(model, seed=seed)
    given = given_by(model.directory, requests, composition)
    assert differences(given, model.alone) == [], f"composition {seed}: {composition}"
    return given


def test_without_the_option_a_request_depends_on_its_chunks_and_neighbours(model: Model) -> None:
    """What the test above would miss if it compared nothing. The native kernels have no other form than this one."""
    requests, composition = composed(
        model,
        seed=PREEMPTING_AND_CACHING,
        batch_invariant=False,
        speculative_ngram=None,
        speculative_self_draft=None,
    )
    given = given_by(model.directory, requests, composition)
    assert bool(differences(given, model.alone)) == (model.settings.get("kernels") != "native")


def test_a_request_goes_on_in_another_engine_as_if_it_had_never_moved(model: Model) -> None:
    """Cut off after any token, sampled or greedy; its new neighbours have their own prompts to compute."""
    rng = random.Random(5)
    for seed in (0, 1):
        moved = rng.sample(REQUESTS, k=5)
        num_delivered = {request.request_id: rng.randint(1, request.max_tokens - 1) for request in moved}
        requests = [
            resumed(request, model.alone[request.request_id].token_ids[: num_delivered[request.request_id]])
            for request in moved
        ]
        neighbours = [request for request in REQUESTS if request not in moved][:4]
        _, composition = composed(model, seed=seed)
        given = given_by(model.directory, [*neighbours, *requests], composition)
        for request in moved:
            whole, rest = model.alone[request.request_id], given[request.request_id]
            first = num_delivered[request.request_id]
            assert rest.token_ids == whole.token_ids[first:]
            assert rest.logprobs == whole.logprobs[first:]
            assert all(whole.logits[num_tokens] == logits for num_tokens, logits in rest.logits.items())


@pytest.mark.parametrize("rope", ["dynamic", "longrope"])
def test_a_prefix_is_not_taken_from_a_prompt_whose_length_gave_it_other_angles(tmp_path: Path, rope: str) -> None:
    settings = {**ROPE_TYPES[rope].settings}
    if rope == "dynamic":
        settings["max_position_embeddings"] = 32
    TinyModel("llama", settings).write(tmp_path)
    alone = given_alone(tmp_path, REQUESTS)
    given = given_by(tmp_path, REQUESTS, Composition({"max_num_seqs": 3, "num_blocks": 200}))
    assert differences(given, alone) == []
    assert any(mine.num_cached_tokens for mine in given.values())


def test_a_lone_row_of_a_large_vocabulary_is_filtered_as_beside_others() -> None:
    """PyTorch sums a lone row of so many in parts, one for each thread."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        weights = torch.rand((5, 60_000), generator=torch.Generator().manual_seed(0)).pow(40)
        kept = [filtered(weights[rows]) for rows in (slice(0, 5), slice(0, 1), slice(0, 2))]
    finally:
        torch.set_num_threads(num_threads)
    assert torch.equal(kept[0][:1], kept[1])
    assert torch.equal(kept[0][:2], kept[2])


def filtered(weights: torch.Tensor) -> torch.Tensor:
    weights = weights.clone()
    num_rows = len(weights)
    off, top_p = torch.zeros(num_rows), torch.full((num_rows,), 0.9, dtype=torch.float64)
    Filters(min_p=off, top_k=off.long(), top_p=top_p, vocab_size=weights.shape[1]).apply(weights)
    return weights


def test_packed_kernels_and_batch_invariance_exclude_each_other(tmp_path: Path) -> None:
    FAMILIES["llama"].write(tmp_path)
    with pytest.raises(ConfigError, match="order of summation"):
        ModelRunner(engine_config(tmp_path, dtype="bfloat16", kernels="packed"))
    with pytest.raises(ValueError, match="batch_invariant: packed kernels"):
        ReferenceOptions.model_validate({"batch_invariant": True, "kernels": "packed"})


def test_what_computes_row_by_row_says_so(tmp_path: Path) -> None:
    FAMILIES["llama"].write(tmp_path)
    assert ModelRunner(engine_config(tmp_path, dtype="float32")).kernels == "plain, row by row"


def test_alternatives_of_equal_probability_are_told_by_their_ids() -> None:
    logits = torch.zeros((2, 3000))
    logits[:, 1500:] = 1.0
    [few, many] = position_logprobs(logits, [0, 0], [3, 40])
    assert few.top_ids == [1500, 1501, 1502]
    assert many.top_ids == list(range(1500, 1540))
