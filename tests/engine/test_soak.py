"""Thousands of mixed random requests through one engine: nothing leaks, no token is wrong, everything ends once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tiny_models import TinyModel

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
from soak_traffic import Soak, SoakReport, SteppingClock, random_requests, tokens_alone, wrong_tokens

from enginebay.engine.factory import build_engine
from enginebay.engine.settings import EngineConfig

VOCAB_SIZE, MAX_MODEL_LEN, BLOCK_SIZE = 96, 64, 4
MAX_GROWTH_BYTES = 8 * 2**20
EVERYTHING: dict[str, object] = {
    "policy": "dynamic",
    "max_num_seqs": 8,
    "max_num_batched_tokens": 48,
    "num_blocks": 48,
    "speculative_ngram": 3,
}
"""Every feature at once, in memory so small that somebody always has to give way."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    TinyModel(
        "llama", {"vocab_size": VOCAB_SIZE, "num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32}
    ).write(path)
    return path


def config(directory: Path, **settings: object) -> EngineConfig:
    values = {
        "dtype": "float32",
        "kernels": "plain",
        "block_size": BLOCK_SIZE,
        "max_model_len": MAX_MODEL_LEN,
        "num_threads": 1,
        "static_batch_timeout_s": 0.01,
        **settings,
    }
    return EngineConfig(model_dir=str(directory), **values)  # type: ignore[arg-type]


def soaked(directory: Path, num_requests: int, *, seed: int, **settings: object) -> SoakReport:
    """With the wrong tokens among its problems: one request in fifty is computed again, alone, by the oracle."""
    clock = SteppingClock()
    engine = build_engine(config(directory, **settings), clock)
    soak = Soak(engine, clock, seed=seed, max_num_in_flight=20, check_every=50 if num_requests > 1000 else 5)
    requests = random_requests(num_requests, vocab_size=VOCAB_SIZE, max_num_prompt_tokens=36, max_tokens=16, seed=seed)
    report = soak.run(requests, note_memory_every=max(1, num_requests // 5))
    oracle = build_engine(config(directory, policy="naive", enable_prefix_caching=False), SteppingClock())
    report.problems += wrong_tokens(report.checked, tokens_alone(oracle))
    return report


@pytest.mark.parametrize(
    "settings",
    [
        EVERYTHING,
        {**EVERYTHING, "policy": "static", "enable_prefix_caching": False, "speculative_ngram": None},
        {**EVERYTHING, "policy": "continuous", "chunked_prefill": False, "max_num_batched_tokens": 64},
        {**EVERYTHING, "policy": "continuous", "batch_invariant": True},
        {**EVERYTHING, "batch_invariant": True, "speculative_ngram": None, "speculative_self_draft": "first_layers:1"},
    ],
    ids=["everything", "static", "whole prompts", "batch-invariant", "drafts of its own layers"],
)
def test_hundreds_of_mixed_requests_leave_nothing_behind(directory: Path, settings: dict[str, object]) -> None:
    report = soaked(directory, 120, seed=3, **settings)
    assert report.problems == []
    assert {"stop", "length", "cancelled", "refused"} <= set(report.num_ends_by_reason)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ten_thousand_mixed_requests_leave_nothing_behind_and_memory_as_it_was(directory: Path) -> None:
    report = soaked(directory, 10_000, seed=1, **EVERYTHING)
    assert report.problems == []
    assert report.num_preemptions > 100
    assert len(report.checked) > 100
    after_2000, *_, after_all = report.resident_bytes.values()
    assert after_all - after_2000 < MAX_GROWTH_BYTES
