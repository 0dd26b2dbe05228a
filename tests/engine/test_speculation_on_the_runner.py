"""Speculation on a real model: the tokens of an engine without it, with drafts that are really accepted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runner_driving import random_tokens
from tiny_models import FAMILIES, VOCAB_SIZE, TinyModel

from enginebay.clock import MonotonicClock
from enginebay.engine.engine import Engine
from enginebay.engine.factory import build_engine
from enginebay.engine.kernels.native.build import native_kernels
from enginebay.engine.request import EngineRequest, PositionLogprobs
from enginebay.engine.settings import EngineConfig
from enginebay.errors import ConfigError


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("llama")
    FAMILIES["llama"].write(directory)
    return directory


@pytest.fixture(scope="module")
def windowed_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("mistral")
    FAMILIES["mistral, sliding window"].write(directory)
    return directory


def engine_of(model_dir: Path, **settings: object) -> Engine:
    values: dict[str, object] = {"dtype": "float32", "block_size": 4, "num_blocks": 96, "num_threads": 1, **settings}
    return build_engine(EngineConfig(model_dir=str(model_dir), **values), MonotonicClock())  # type: ignore[arg-type]


def request_of(index: int, **fields: object) -> EngineRequest:
    """A prompt that repeats itself: tiny random models fall into loops of it."""
    phrase = random_tokens(3 + index % 5, vocab_size=VOCAB_SIZE, seed=index)
    values: dict[str, object] = {
        "request_id": str(index), "prompt_token_ids": phrase * 3, "max_tokens": 40, "seed": 100 + index,
        "temperature": 0.0, "ignore_eos": True, **fields,
    }  # fmt: skip
    return EngineRequest(**values)  # type: ignore[arg-type]


def run(engine: Engine, requests: list[EngineRequest]) -> dict[str, tuple[list[int], list[PositionLogprobs]]]:
    """A third is there at the start, then one more comes with each step."""
    outputs: dict[str, tuple[list[int], list[PositionLogprobs]]] = {r.request_id: ([], []) for r in requests}
    arriving = iter(requests)
    for _ in range(len(requests) // 3):
        engine.add(next(arriving))
    while True:
        newcomer = next(arriving, None)
        if newcomer is not None:
            engine.add(newcomer)
        if not engine.has_work:
            break
        for output in engine.step():
            assert output.error is None
            token_ids, logprobs = outputs[output.request_id]
            token_ids += output.token_ids
            logprobs += output.logprobs or []
    engine.scheduler.check_integrity()
    assert engine.counters.num_free_blocks == engine.counters.num_blocks
    return outputs


SAMPLING: list[dict[str, object]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 0.9, "top_p": 0.8},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 0.3, "min_p": 0.05},
    {"logit_bias": {7: 3.0}},
    {"min_tokens": 12, "stop_token_ids": list(range(0, VOCAB_SIZE, 9)), "ignore_eos": False},
    {"repetition_penalty": 1.1},
    {"num_logprobs": 2, "num_prompt_logprobs": 1},
]


def varied_requests(num: int) -> list[EngineRequest]:
    return [request_of(index, **SAMPLING[index % len(SAMPLING)]) for index in range(num)]


ENGINES: dict[str, dict[str, object]] = {
    "continuous": {"max_num_seqs": 6},
    "naive": {"policy": "naive"},
    "chunked": {"max_num_seqs": 6, "max_num_batched_tokens": 10},
    "without prefix cache": {"max_num_seqs": 6, "enable_prefix_caching": False},
    "preempting": {"max_num_seqs": 8, "num_blocks": 40},
    "always the longest drafts": {"max_num_seqs": 6, "speculative_adaptive": False},
}
ALWAYS: dict[str, object] = {"speculative_adaptive": False}
DRAFTS: dict[str, dict[str, object]] = {
    "ngram": {"speculative_ngram": 5},
    "first layers": {"speculative_self_draft": "first_layers:2"},
    "int8": {"speculative_self_draft": "int8"},
}


@pytest.fixture(scope="module")
def draft_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model with the same vocabulary, which is often right: the same one with noise on its weights."""
    directory = tmp_path_factory.mktemp("draft")
    model = FAMILIES["llama"].write(directory)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * parameter.std() * 0.05)
    model.save_pretrained(directory)
    return directory


def greedy_requests() -> list[EngineRequest]:
    sampling: list[dict[str, object]] = [
        {}, {"logit_bias": {7: 3.0}}, {"min_tokens": 9, "ignore_eos": False}, {"repetition_penalty": 1.1},
    ]  # fmt: skip
    return [request_of(index, **{"max_tokens": 30, **sampling[index % 4]}) for index in range(9)]


@pytest.fixture(scope="module")
def expected_greedy(model_dir: Path) -> dict[str, list[int]]:
    return {name: ids for name, (ids, _) in run(engine_of(model_dir, max_num_seqs=6), greedy_requests()).items()}


@pytest.fixture(scope="module")
def expected(model_dir: Path) -> dict[str, tuple[list[int], list[PositionLogprobs]]]:
    return run(engine_of(model_dir, max_num_seqs=6), varied_requests(18))


@pytest.mark.parametrize("name", ENGINES)
def test_prompt_lookup_gives_the_same_tokens_for_every_seed_and_sampling(
    name: str, model_dir: Path, expected: dict[str, tuple[list[int], list[PositionLogprobs]]]
) -> None:
    engine = engine_of(model_dir, **{"max_model_len": 80, **ENGINES[name], **DRAFTS["ngram"]})
    outputs = run(engine, varied_requests(18))
    for request_id, (token_ids, logprobs) in expected.items():
        assert outputs[request_id][0] == token_ids, request_id
        assert [entry.token_id for entry in outputs[request_id][1]] == [entry.token_id for entry in logprobs]
        ours, theirs = ([entry.logprob for entry in many] for many in (outputs[request_id][1], logprobs))
        assert ours == pytest.approx(theirs, abs=1e-4)
    counters = engine.counters
    assert counters.num_accepted_tokens > 0
    assert counters.num_preemptions > 0 or name != "preempting"


def test_a_text_that_repeats_itself_takes_fewer_steps_than_it_has_tokens(model_dir: Path) -> None:
    engine = engine_of(model_dir, speculative_ngram=5)
    outputs = run(engine, [request_of(0, max_tokens=60)])
    counters = engine.counters
    assert len(outputs["0"][0]) == 60
    assert counters.num_steps < 40
    assert counters.num_accepted_tokens + counters.num_steps == 60


@pytest.mark.parametrize("draft", ["first layers", "another model"])
def test_batch_invariant_requests_draw_the_same_tokens_with_the_drafts_of_a_model(
    draft: str, model_dir: Path, draft_dir: Path
) -> None:
    """Which places are drafted depends on the batch: only drafts that leave every seed its tokens will do."""
    requests = [request_of(index, temperature=0.8, max_tokens=16) for index in range(5)]
    expected = run(engine_of(model_dir, batch_invariant=True), requests)
    drafts = DRAFTS.get(draft, {"speculative_draft_dir": str(draft_dir)})
    engine = engine_of(model_dir, batch_invariant=True, **ALWAYS, **drafts)
    assert run(engine, requests) == expected
    assert engine.counters.num_accepted_tokens > 0


def native_kernels_or_skip() -> None:
    kernels = native_kernels()
    if kernels.operators is None:
        pytest.skip(f"no native kernels: {kernels.why_not}")


@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize("draft", ["ngram", "first layers", "another model"])
def test_in_bfloat16_the_native_kernels_give_the_logits_of_ordinary_decoding_to_the_last_bit(
    draft: str, quantization: str | None, tmp_path: Path
) -> None:
    native_kernels_or_skip()
    TinyModel("llama", {"head_dim": 16, "hidden_size": 96, "intermediate_size": 96}).write(tmp_path)
    values: dict[str, object] = {"dtype": "bfloat16", "kernels": "native", "quantization": quantization}
    fields: dict[str, object] = {"num_logprobs": 3, "max_tokens": 30, "logit_bias": {5: 25.0, 6: 25.0}}
    requests = [request_of(index, **fields, temperature=0.7 * (index % 2)) for index in range(6)]
    expected = run(engine_of(tmp_path, **values), requests)
    drafts = DRAFTS.get(draft, {"speculative_draft_dir": str(tmp_path)})
    engine = engine_of(tmp_path, **values, **ALWAYS, **drafts)
    outputs = run(engine, requests if draft == "ngram" else requests[::2])
    assert outputs == {request_id: expected[request_id] for request_id in outputs}
    assert engine.counters.num_accepted_tokens > 0


def test_sliding_windows_see_the_same_from_rows_of_drafts(windowed_dir: Path) -> None:
    requests = [request_of(index, max_tokens=50) for index in range(6)]
    expected = run(engine_of(windowed_dir), requests)
    engine = engine_of(windowed_dir, speculative_ngram=4)
    assert run(engine, requests) == expected
    assert engine.counters.num_accepted_tokens > 0


@pytest.mark.parametrize("name", ["continuous", "chunked", "preempting"])
@pytest.mark.parametrize("draft", ["first layers", "int8", "another model"])
def test_draft_models_give_the_tokens_of_greedy_decoding(
    draft: str, name: str, model_dir: Path, draft_dir: Path, expected_greedy: dict[str, list[int]]
) -> None:
    drafts = DRAFTS.get(draft, {"speculative_draft_dir": str(draft_dir)})
    engine = engine_of(model_dir, **{"max_model_len": 80, **ALWAYS, **ENGINES[name], **drafts})
    outputs = run(engine, greedy_requests())
    assert {request_id: token_ids for request_id, (token_ids, _) in outputs.items()} == expected_greedy
    counters = engine.counters
    assert 0 < counters.num_accepted_tokens < counters.num_drafted_tokens
    assert counters.num_preemptions > 0 or name != "preempting"


def test_a_draft_model_that_equals_the_model_is_always_right(model_dir: Path) -> None:
    """Of both caches: nothing of a rejected or a preempted past stands in the draft's."""
    engine = engine_of(
        model_dir, speculative_draft_dir=str(model_dir), **ALWAYS, max_num_seqs=8, num_blocks=48, max_model_len=80
    )
    run(engine, [request_of(index) for index in range(10)])
    counters = engine.counters
    assert counters.num_preemptions > 0
    assert counters.num_accepted_tokens == counters.num_drafted_tokens > 100


def test_static_batches_refuse_to_speculate(model_dir: Path) -> None:
    with pytest.raises(ConfigError, match="static batches cannot speculate"):
        engine_of(model_dir, policy="static", speculative_ngram=4)
