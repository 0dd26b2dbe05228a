"""The engine's greedy output, token for token, against transformers' `generate` in float32.

Where they part, it must be a matter of rounding: transformers' own two best logits lie closer than 1e-3 there, on at
most one prompt in sixty.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from enginebay.clock import MonotonicClock
from enginebay.engine.request import EngineCounters, EngineRequest
from enginebay.engine.settings import EngineConfig

pytestmark = [pytest.mark.weights, pytest.mark.timeout(600)]

MAX_TOKENS = 24
NUM_THREADS = 1  # two that fight for a busy core are many times slower than one
CLOSE_CALL = 1e-3


@dataclass
class Reference:
    """transformers, prompts of one length at a time: otherwise it would pad, and padding changes its rounding."""

    model: object
    prompts: list[list[int]]
    outputs: list[list[int]]

    def gap(self, history: list[int]) -> float:
        """Between its two best logits for the token after history."""
        import torch

        with torch.inference_mode():
            best = self.model(torch.tensor([history])).logits[0, -1].topk(2).values  # type: ignore[operator]
        return float(best[0] - best[1])


@pytest.fixture(scope="module")
def model_dir() -> Path:
    from enginebay.models.sources import resolve_model

    return resolve_model("smollm2-135m")


@pytest.fixture(scope="module")
def reference(model_dir: Path) -> Reference:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from varied_prompts import all_prompts

    torch.set_num_threads(NUM_THREADS)
    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    prompts = all_prompts(AutoTokenizer.from_pretrained(model_dir))
    outputs: list[list[int]] = [[] for _ in prompts]
    for length in sorted({len(prompt) for prompt in prompts}):
        indices = [index for index, prompt in enumerate(prompts) if len(prompt) == length]
        ids = torch.tensor([prompts[index] for index in indices])
        with torch.inference_mode():
            generated = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=MAX_TOKENS, do_sample=False
            )
        for index, output in zip(indices, generated[:, length:].tolist(), strict=True):
            outputs[index] = up_to_the_end(output, model.config.eos_token_id)
    return Reference(model, prompts, outputs)


def up_to_the_end(output: list[int], eos_token_id: int) -> list[int]:
    """The end of sequence included, and not what fills a row that ended before its neighbours."""
    return output[: output.index(eos_token_id) + 1] if eos_token_id in output else output


def engine_outputs(
    model_dir: Path, prompts: list[list[int]], **settings: object
) -> tuple[list[list[int]], EngineCounters]:
    """A third of the requests is there at the start, then one more comes with each step."""
    from enginebay.engine.factory import build_engine

    config = EngineConfig(
        model_dir=str(model_dir), dtype="float32", max_model_len=512, num_threads=NUM_THREADS, **settings
    )  # type: ignore[arg-type]
    engine = build_engine(config, MonotonicClock())
    requests = [
        EngineRequest(request_id=str(i), prompt_token_ids=ids, max_tokens=MAX_TOKENS, seed=0, temperature=0.0)
        for i, ids in enumerate(prompts)
    ]
    outputs: list[list[int]] = [[] for _ in prompts]
    arriving = iter(requests)
    for _ in range(len(requests) // 3):
        engine.add(next(arriving))
    while True:
        if (newcomer := next(arriving, None)) is not None:
            engine.add(newcomer)
        if newcomer is None and not engine.has_work:
            break
        for output in engine.step():
            outputs[int(output.request_id)] += output.token_ids
    engine.scheduler.check_integrity()
    assert engine.counters.num_free_blocks == engine.counters.num_blocks
    return outputs, engine.counters


def demand_equal(reference: Reference, outputs: list[list[int]]) -> None:
    parted: list[tuple[int, int]] = []
    for index, (ours, theirs) in enumerate(zip(outputs, reference.outputs, strict=True)):
        if ours != theirs:
            parted.append((index, next(i for i in range(MAX_TOKENS) if ours[i : i + 1] != theirs[i : i + 1])))
    for index, place in parted:
        gap = reference.gap(reference.prompts[index] + reference.outputs[index][:place])
        assert gap < CLOSE_CALL, f"prompt {index} parts at token {place}, where the best two are {gap} apart"
    assert len(parted) <= len(outputs) // 60, f"{len(parted)} of {len(outputs)} prompts part: {parted}"


def test_there_are_at_least_sixty_prompts_and_some_end_early(reference: Reference):
    assert len(reference.prompts) >= 60
    assert min(len(prompt) for prompt in reference.prompts) == 1
    assert max(len(prompt) for prompt in reference.prompts) > 200
    assert any(len(output) < MAX_TOKENS for output in reference.outputs)


def test_continuous_batching_gives_the_tokens_of_transformers(model_dir: Path, reference: Reference):
    outputs, counters = engine_outputs(model_dir, reference.prompts, max_num_seqs=32)
    demand_equal(reference, outputs)
    assert counters.num_preemptions == 0


def test_chunked_and_preempted_requests_give_the_tokens_of_transformers(model_dir: Path, reference: Reference):
    outputs, counters = engine_outputs(
        model_dir, reference.prompts, max_num_seqs=24, max_num_batched_tokens=48, block_size=16, num_blocks=34
    )
    demand_equal(reference, outputs)
    assert counters.num_preemptions >= 5


def test_padded_static_batches_give_the_tokens_of_transformers(model_dir: Path, reference: Reference):
    """Without the longest: padding fifteen others to each of them only takes time."""
    kept = [index for index, prompt in enumerate(reference.prompts) if len(prompt) <= 40]
    assert len(kept) >= 60
    prompts, expected = [reference.prompts[i] for i in kept], [reference.outputs[i] for i in kept]
    outputs, counters = engine_outputs(model_dir, prompts, policy="static", max_num_seqs=16, max_num_batched_tokens=256)
    demand_equal(Reference(reference.model, prompts, expected), outputs)
    assert counters.num_padding_tokens > 0
    assert counters.num_idle_slot_steps > 0
