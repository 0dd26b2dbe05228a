"""What a step is said to take at most is held against what PyTorch really allocates while an engine makes steps."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from runner_driving import BLOCK_SIZE
from tiny_models import TinyModel
from torch.profiler import ProfilerActivity, profile

from enginebay.clock import MonotonicClock
from enginebay.engine.engine import Engine
from enginebay.engine.factory import assemble
from enginebay.engine.model_runner import ModelRunner
from enginebay.engine.request import EngineRequest
from enginebay.engine.settings import EngineConfig
from enginebay.engine.setup import forecast

MANY, FEW = 6000, 160
"""Tokens of a vocabulary: so many that logits take most of the memory, and so few that keys and activations do."""
DRAFTS: dict[str, dict[str, object]] = {
    "wide": {"num_key_value_heads": 6, "hidden_size": 96, "intermediate_size": 300},
    "narrow": {"num_hidden_layers": 1},
}
"""A draft model that takes more than the model itself, and one that takes less."""
EVERYTHING = {"temperature": 1.0, "top_p": 0.999, "num_logprobs": 5, "logit_bias": {5: 1.0}}
GREEDY = {"temperature": 0.0}
LOOSEST = 2.0
"""A forecast of so many times what is really taken would refuse what fits."""


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    written: dict[str, Path] = {}

    def of(**sizes: object) -> str:
        name = repr(sorted(sizes.items()))
        if name not in written:
            written[name] = tmp_path_factory.mktemp("model")
            TinyModel("llama", {"max_position_embeddings": 512, **sizes}).write(written[name])
        return str(written[name])

    return of


def peak_bytes(compute: Callable[[], object]) -> int:
    """Most that was allocated beyond what was there before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        compute()
    assert profiled.profiler is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    held_bytes = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held_bytes += event.nbytes()
        peak = max(peak, held_bytes)
    return peak


def config_of(model_dir: str, **settings: object) -> EngineConfig:
    values: dict[str, object] = {
        "dtype": "float32", "kernels": "plain", "block_size": BLOCK_SIZE, "num_blocks": 800, "num_threads": 1,
        "max_num_batched_tokens": 64, "enable_prefix_caching": False, "speculative_adaptive": False, **settings,
    }  # fmt: skip
    return EngineConfig(model_dir=model_dir, **values)  # type: ignore[arg-type]


def peak_of_all_steps(
    engine: Engine, *, num_requests: int, num_prompt_tokens: int, num_output_tokens: int, request: dict[str, object]
) -> int:
    rng = random.Random(0)
    for index in range(num_requests):
        prompt = [rng.randrange(3, 60) for _ in range(num_prompt_tokens)]
        engine.add(
            EngineRequest(
                request_id=str(index),
                prompt_token_ids=prompt,
                max_tokens=num_output_tokens,
                seed=index,
                ignore_eos=True,
                **request,
            )  # type: ignore[arg-type]
        )
    peaks: list[int] = []
    while engine.has_work:
        peaks.append(peak_bytes(lambda: [_checked(output.error) for output in engine.step()]))
    return max(peaks)


def _checked(error: str | None) -> None:
    assert error is None, error


@pytest.mark.parametrize(
    ("vocab_size", "num_requests", "num_prompt_tokens", "request_fields", "settings"),
    [
        pytest.param(MANY, 16, 12, EVERYTHING, {}, id="drawn"),
        pytest.param(MANY, 16, 12, {**EVERYTHING, "repetition_penalty": 1.1}, {}, id="drawn with penalties"),
        pytest.param(MANY, 1, 200, {**GREEDY, "num_prompt_logprobs": 5}, {}, id="a prompt's log-probabilities"),
        pytest.param(MANY, 3, 60, {**EVERYTHING, "num_prompt_logprobs": 5}, {}, id="those of prompts, and drawn"),
        pytest.param(MANY, 4, 12, EVERYTHING, {"speculative_self_draft": "first_layers:2"}, id="drawn drafts"),
        pytest.param(MANY, 4, 12, EVERYTHING, {"speculative_draft_dir": "narrow"}, id="drawn drafts of another model"),
        pytest.param(
            FEW, 4, 300, GREEDY, {"speculative_self_draft": "first_layers:2", "speculative_num_tokens": 8},
            id="contexts gathered for every draft",
        ),
        pytest.param(FEW, 1, 400, GREEDY, {"speculative_draft_dir": "wide"}, id="a wide draft model"),
        pytest.param(FEW, 4, 300, GREEDY, {"speculative_draft_dir": "wide"}, id="contexts of a wide draft model"),
        pytest.param(FEW, 8, 300, GREEDY, {}, id="contexts"),
        pytest.param(FEW, 8, 300, GREEDY, {"kv_cache_dtype": "int8"}, id="contexts in int8"),
        pytest.param(
            FEW, 8, 300, GREEDY, {"kv_cache_dtype": "int8", "dtype": "bfloat16"},
            id="contexts in int8, read in bfloat16",
        ),
        pytest.param(FEW, 1, 400, GREEDY, {"kv_cache_dtype": "int8"}, id="chunks of a prompt in int8"),
    ],
)  # fmt: skip
def test_no_step_takes_more_than_was_foretold_nor_far_less(
    directory: Callable[..., str],
    vocab_size: int,
    num_requests: int,
    num_prompt_tokens: int,
    request_fields: dict[str, object],
    settings: dict[str, object],
) -> None:
    drafts = {name: directory(vocab_size=vocab_size, **sizes) for name, sizes in DRAFTS.items()}
    settings = {name: drafts.get(str(value), value) for name, value in settings.items()}
    config = config_of(
        directory(vocab_size=vocab_size), max_num_seqs=num_requests, max_model_len=num_prompt_tokens + 70, **settings
    )
    engine = assemble(config, ModelRunner(config), MonotonicClock())
    peak = peak_of_all_steps(
        engine,
        num_requests=num_requests,
        num_prompt_tokens=num_prompt_tokens,
        num_output_tokens=8 if vocab_size == MANY else 60,
        request=request_fields,
    )
    expected = forecast(config).memory.step_bytes
    assert peak <= expected <= LOOSEST * peak
    assert bool(engine.counters.num_drafted_tokens) == any(name.startswith("speculative") for name in settings)
