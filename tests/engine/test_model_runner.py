"""What a sequence computes depends on its own tokens alone: not on chunks, blocks, neighbours or padding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from runner_driving import (
    BLOCK_SIZE,
    chunk,
    greedy_tokens,
    new_sequence,
    random_tokens,
    tiny_runner,
    whole_prompt_logits,
)
from tiny_models import FAMILIES, VOCAB_SIZE, TinyModel

from enginebay.engine.model_runner import ModelRunner
from enginebay.engine.plan import ScheduledSequence, StepPlan
from enginebay.engine.sampler import Sampler
from enginebay.engine.sequence import Sequence
from enginebay.errors import ModelError

TOLERANCE = 1e-4
WINDOW = 20


@pytest.fixture(scope="module", params=["llama", "qwen2, window in the upper layers"])
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    FAMILIES[request.param].write(path)
    return path


@pytest.fixture
def runner(directory: Path) -> ModelRunner:
    return tiny_runner(directory)


def prompt(num_tokens: int, seed: int = 0) -> list[int]:
    return random_tokens(num_tokens, vocab_size=VOCAB_SIZE, seed=seed)


def assert_same(first: torch.Tensor, second: torch.Tensor) -> None:
    assert first.shape == second.shape
    assert float((first - second).abs().max()) < TOLERANCE


@pytest.mark.parametrize("sizes", [[31, *[1] * 20], [16, 16, 16], [1, 2, 3, 4, 5, 6, 7, 8, 9], [59]])
def test_a_prompt_in_chunks_gives_the_same_logits_as_at_once(runner: ModelRunner, sizes: list[int]) -> None:
    whole = whole_prompt_logits(runner, new_sequence(prompt(60), range(1, 40)))
    assert_same(whole_prompt_logits(runner, new_sequence(prompt(60), range(50, 90)), sizes), whole)


def test_scattered_blocks_give_the_same_tokens_as_contiguous_ones(runner: ModelRunner) -> None:
    contiguous, scattered = new_sequence(prompt(37), range(1, 40)), new_sequence(prompt(37), range(1, 40))
    contiguous.block_table = list(range(1, 30))
    scattered.block_table = torch.randperm(128, generator=torch.Generator().manual_seed(3)).add(1).tolist()
    expected = greedy_tokens(runner, contiguous, num_tokens=15)
    assert greedy_tokens(runner, scattered, num_tokens=15) == expected


def mixed_batch() -> list[ScheduledSequence]:
    """Two decode rows, a first chunk, a later chunk and a whole prompt."""
    lengths = {"decode": 33, "long decode": 90, "first chunk": 40, "later chunk": 50, "whole": 11}
    blocks = iter(range(1, 120))
    rows = {name: new_sequence(prompt(length, seed=length), blocks) for name, length in lengths.items()}
    return [
        chunk(rows["first chunk"], 0, 17),
        chunk(rows["decode"], 32, 33),
        chunk(rows["whole"], 0, 11),
        chunk(rows["long decode"], 89, 90),
        chunk(rows["later chunk"], 23, 50),
    ]


def test_a_mixed_batch_gives_each_sequence_what_it_gets_alone(runner: ModelRunner) -> None:
    together = mixed_batch()
    alone = [
        runner.forward(StepPlan([chunk(item.sequence, 0, item.start + item.num_new_tokens)])).prompt[0][item.start :]
        for item in together
    ]
    logits = runner.forward(StepPlan(together))
    for index, expected in enumerate(alone):
        assert_same(logits.prompt[index][:], expected)
    sampled = [expected[-1] for item, expected in zip(together, alone, strict=True) if item.samples]
    assert len(sampled) == 4
    assert_same(logits.sampled, torch.stack(sampled))


def test_padding_rows_change_nothing_for_the_sequence_that_has_them_or_for_others(runner: ModelRunner) -> None:
    first, second = new_sequence(prompt(30), range(1, 40)), new_sequence(prompt(45, seed=1), range(40, 80))
    expected = [whole_prompt_logits(runner, sequence) for sequence in (first, second)]
    fresh = tiny_runner_like(runner)
    fresh.forward(StepPlan([chunk(first, 0, 12, num_padding_tokens=8), chunk(second, 0, 20)]))
    padded = fresh.forward(StepPlan([chunk(first, 12, 30, num_padding_tokens=7), chunk(second, 20, 45)]))
    assert_same(padded.prompt[0][:], expected[0][12:])
    assert_same(padded.prompt[1][:], expected[1][20:])
    only_padding = ScheduledSequence(first, 30, 0, num_padding_tokens=1)
    more_padding = ScheduledSequence(first, 30, 0, num_padding_tokens=9)
    after = fresh.forward(StepPlan([only_padding, more_padding, chunk(second, 44, 45)]))
    assert_same(after.sampled[0], expected[1][-1])
    assert_same(fresh.forward(StepPlan([chunk(first, 29, 30)])).sampled[0], expected[0][-1])


def tiny_runner_like(runner: ModelRunner) -> ModelRunner:
    """A second runner with an empty cache."""
    return tiny_runner(Path(runner.model_dir))


def test_an_idle_sequence_is_computed_again_without_a_trace(runner: ModelRunner) -> None:
    idle, other = new_sequence(prompt(31), range(1, 40)), new_sequence(prompt(18, seed=5), range(40, 80))
    expected = whole_prompt_logits(runner, other)[-1]
    whole_prompt_logits(runner, idle)
    own = [cache.keys[idle.block_table].clone() for cache in runner.caches]
    idle.token_ids.append(7)
    again = ScheduledSequence(idle, idle.num_tokens - 1, 1, is_idle=True)
    assert_same(runner.forward(StepPlan([again, chunk(other, 17, 18)])).sampled[0], expected)
    assert all(
        torch.equal(before, cache.keys[idle.block_table]) for before, cache in zip(own, runner.caches, strict=True)
    )
    idle.block_table = []
    assert_same(runner.forward(StepPlan([again, chunk(other, 17, 18)])).sampled[0], expected)


@pytest.mark.parametrize("num_tokens", [WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + BLOCK_SIZE, 3 * WINDOW])
def test_a_sliding_window_is_exact_on_either_side_of_its_boundary(num_tokens: int, tmp_path: Path) -> None:
    model = TinyModel("mistral", {"sliding_window": WINDOW}).write(tmp_path)
    token_ids = prompt(num_tokens)
    with torch.no_grad():
        expected = model(torch.tensor([token_ids])).logits[0]
    runner = tiny_runner(tmp_path)
    for sizes in ([], [WINDOW - 2, *[1] * 8, 3]):
        computed = whole_prompt_logits(runner, new_sequence(token_ids, range(1, 40)), sizes)
        assert_same(computed, expected)


def test_keys_that_left_the_window_are_not_read(tmp_path: Path) -> None:
    TinyModel("mistral", {"sliding_window": WINDOW}).write(tmp_path)
    runner = tiny_runner(tmp_path)
    sequence = new_sequence(prompt(60), range(1, 40))
    before = whole_prompt_logits(runner, sequence)[-1]
    for cache in runner.caches:
        cache.values[sequence.block_table[0]] = 1e4
    assert_same(runner.forward(StepPlan([chunk(sequence, 59, 60)])).sampled[0], before)


@pytest.mark.parametrize("num_padding_tokens", [0, 5])
def test_a_sequence_that_is_not_a_number_harms_neither_its_neighbours_nor_the_next_owners_of_its_blocks(
    directory: Path, num_padding_tokens: int
) -> None:
    poison, runner = 77, tiny_runner(directory)
    healthy = [token_id for token_id in prompt(60, seed=9) if token_id != poison][:33]
    expected = whole_prompt_logits(tiny_runner(directory), new_sequence(healthy, range(1, 40)))
    runner.model.embedding.weight = runner.model.embedding.weight.clone()
    runner.model.embedding.weight[poison] = float("nan")
    broken, neighbour = (
        new_sequence([*healthy[:3], poison, *healthy[4:20]], range(1, 40)),
        new_sequence(healthy, range(40, 80)),
    )
    runner.forward(StepPlan([chunk(broken, 0, 9), chunk(neighbour, 0, 11)]))
    first = chunk(broken, 9, 20, num_padding_tokens=num_padding_tokens)
    second = chunk(neighbour, 11, 33, num_padding_tokens=num_padding_tokens)
    logits = runner.forward(StepPlan([first, second]))
    assert logits.sampled[0].isnan().all()
    assert_same(logits.sampled[1], expected[-1])
    again = runner.forward(StepPlan([chunk(broken, 19, 20), chunk(neighbour, 32, 33)]))
    assert again.sampled[0].isnan().all()
    assert_same(again.sampled[1], expected[-1])
    heir = new_sequence(healthy, [90, 91, 92, 93, *reversed(broken.block_table)])
    assert_same(whole_prompt_logits(runner, heir, [17, *[1] * 9]), expected)


def test_a_reserved_block_that_still_holds_a_dead_sequence_is_not_read_before_it_is_written(directory: Path) -> None:
    poison, runner = 77, tiny_runner(directory)
    healthy = [token_id for token_id in prompt(60, seed=9) if token_id != poison][:33]
    expected = whole_prompt_logits(tiny_runner(directory), new_sequence(healthy[:5], range(1, 40)))[-1]
    runner.model.embedding.weight = runner.model.embedding.weight.clone()
    runner.model.embedding.weight[poison] = float("nan")
    dead = new_sequence([poison] * 40, range(50, 70))
    runner.forward(StepPlan([chunk(dead, 0, 40)]))
    heir, longer = new_sequence(healthy[:5], range(1, 40)), new_sequence(healthy, range(20, 40))
    heir.block_table += dead.block_table
    runner.forward(StepPlan([chunk(heir, 0, 4), chunk(longer, 0, 32)]))
    logits = runner.forward(StepPlan([chunk(heir, 4, 5), chunk(longer, 32, 33)]))
    assert_same(logits.sampled[0], expected)


def test_a_step_without_sampled_rows_gives_no_logits(runner: ModelRunner) -> None:
    sequence = new_sequence(prompt(30), range(1, 40), num_prompt_logprobs=None)
    logits = runner.forward(StepPlan([chunk(sequence, 0, 10)]))
    assert logits.sampled.shape == (0, VOCAB_SIZE)
    assert logits.prompt == {}


def test_log_probabilities_of_a_prompt_take_few_rows_of_logits_at_a_time_and_none_beyond_it(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_rows: list[int] = []
    whole = runner.model.logits
    monkeypatch.setattr(runner.model, "logits", lambda hidden: num_rows.append(len(hidden)) or whole(hidden))
    sequence = new_sequence(prompt(80), range(1, 40), resume_token_ids=prompt(5))
    plan = StepPlan([chunk(sequence, 0, 85)])
    logits = runner.forward(plan)
    [scores] = Sampler(vocab_size=VOCAB_SIZE, eos_token_ids=()).prompt_logprobs(logits, plan).values()
    assert len(scores) == 79
    assert num_rows == [1, 64, 15]


def test_a_prompt_whose_log_probabilities_were_given_is_not_scored_again(runner: ModelRunner) -> None:
    sequence = new_sequence(prompt(20), range(1, 40))
    sequence.is_prompt_reported = True
    assert runner.forward(StepPlan([chunk(sequence, 0, 20)])).prompt == {}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_half_precision_runner_is_close_to_float32(directory: Path, dtype: str) -> None:
    exact = whole_prompt_logits(tiny_runner(directory), new_sequence(prompt(40), range(1, 40)))
    half = whole_prompt_logits(tiny_runner(directory, dtype=dtype), new_sequence(prompt(40), range(1, 40)), [9, 1, 1])
    assert half.dtype == torch.float32
    assert float(torch.cosine_similarity(exact, half, dim=-1).min()) > 0.995


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"num_blocks": 10}, "num_blocks is 10; lower max_model_len to at most 40"),
        ({"num_blocks": None, "kv_cache_bytes": 20_000}, "kv_cache_bytes 20,000 allows 12 blocks"),
        ({"num_blocks": 2**40}, "bytes are available"),
        ({"dtype": "int4"}, "dtype 'int4' is not supported"),
        ({"device": "tpu9"}, "not a torch device"),
        ({"num_blocks": None, "kv_cache_bytes": 1}, "allows 0 blocks; allow more$"),
        ({"max_model_len": 97}, "beyond the 96 tokens"),
        ({"max_model_len": 1}, "max_model_len must be at least 2"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_with_its_arithmetic(
    directory: Path, settings: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ModelError, match=complaint):
        tiny_runner(directory, **settings)


def test_the_cache_holds_full_contexts_for_all_sequences_or_what_the_bytes_allow(directory: Path) -> None:
    settings = {"num_blocks": None, "max_num_seqs": 3, "max_model_len": 50}
    assert tiny_runner(directory, **settings).num_blocks == 3 * 13
    limited = tiny_runner(directory, **settings, kv_cache_bytes=20 * 2 * 3 * BLOCK_SIZE * 2 * 8 * 4)
    assert limited.num_blocks == 19
    assert "19 blocks of 4 tokens and one of scratch x 1,536 bytes = 30,720 bytes" in str(limited.memory_use)


def test_a_sequence_restored_after_preemption_goes_on_with_the_same_tokens(runner: ModelRunner) -> None:
    sequence = new_sequence(prompt(25), range(1, 40))
    sequence.block_table = list(range(1, 30))
    expected = greedy_tokens(runner, sequence, num_tokens=20)
    restored = Sequence(sequence.request, arrived_at=0.0)
    restored.token_ids += expected[:8]
    restored.block_table = list(range(60, 90))
    assert greedy_tokens(runner, restored, num_tokens=12) == expected[8:]
