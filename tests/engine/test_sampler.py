"""The batched sampler against a plain implementation of one row, and what its noise may depend on."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch
from torch import Tensor

from enginebay.engine.filters import Filters
from enginebay.engine.logits import SampledToken, StepLogits
from enginebay.engine.noise import splitmix64, uniform_noise
from enginebay.engine.plan import ScheduledSequence, StepPlan
from enginebay.engine.request import EngineRequest
from enginebay.engine.sampler import Sampler
from enginebay.engine.sequence import Sequence

VOCAB_SIZE = 1000
EOS = (2, 3)
PROMPT = [5, 6, 7, 5]


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)  # two that fight for a busy core are many times slower than one


def sequence_of(*, outputs: list[int] | None = None, prompt: list[int] | None = None, **fields: object) -> Sequence:
    values: dict[str, object] = {"request_id": "test", "max_tokens": 100, "seed": 1, **fields}
    request = EngineRequest(prompt_token_ids=prompt or PROMPT, **values)  # type: ignore[arg-type]
    sequence = Sequence(request, arrived_at=0.0)
    sequence.token_ids += outputs or []
    return sequence


def random_logits(num_rows: int, seed: int = 0) -> Tensor:
    return torch.randn((num_rows, VOCAB_SIZE), generator=torch.Generator().manual_seed(seed)) * 3


def sample(logits: Tensor, sequences: list[Sequence], sampler: Sampler | None = None) -> list[SampledToken]:
    plan = StepPlan([ScheduledSequence(sequence, 0, sequence.num_tokens, samples=True) for sequence in sequences])
    sampler = sampler or Sampler(vocab_size=logits.shape[-1], eos_token_ids=EOS)
    before = logits.clone()
    tokens = [token for [token] in sampler.sample(StepLogits(logits), plan)]
    assert torch.equal(before, logits) or before.isnan().any(), "the raw logits belong to the caller"
    return tokens


def plain_distribution(logits: Tensor, sequence: Sequence) -> np.ndarray:
    """Of one row, in float64, step by step as documented."""
    request, scores = sequence.request, logits.double().numpy().copy()
    for token_id, bias in request.logit_bias.items():
        scores[token_id] += bias
    if sequence.num_output_tokens < request.min_tokens:
        scores[[*EOS, *request.stop_token_ids]] = -math.inf
    counts = Counter(sequence.output_token_ids)
    for token_id in set(sequence.token_ids):
        positive = scores[token_id] > 0
        scores[token_id] *= 1 / request.repetition_penalty if positive else request.repetition_penalty
    for token_id, count in counts.items():
        scores[token_id] -= request.frequency_penalty * count + request.presence_penalty
    if request.temperature == 0:
        return np.eye(len(scores))[scores.argmax()]
    weights = np.exp((scores - scores.max()) / request.temperature)
    weights[weights < request.min_p] = 0
    if request.top_k:
        weights[weights < np.sort(weights)[-min(request.top_k, len(weights))]] = 0
    descending = np.sort(weights)[::-1]
    num_kept = int((np.cumsum(descending) / descending.sum() < request.top_p).sum()) + 1
    if request.top_p < 1:
        weights[weights < descending[num_kept - 1]] = 0
    return weights / weights.sum()


def plain_token(logits: Tensor, sequence: Sequence) -> int:
    seeds, positions = np.array([sequence.request.seed]), np.array([sequence.num_output_tokens])
    noise = uniform_noise(seeds.astype(np.uint64), positions.astype(np.uint64))[0]
    cumulative = np.cumsum(plain_distribution(logits, sequence))
    return int(np.searchsorted(cumulative, noise * cumulative[-1], side="right"))


PARAMETERS: list[dict[str, object]] = [
    {},
    {"temperature": 0.0},
    {"temperature": 0.3},
    {"temperature": 2.0},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 5000},
    {"top_p": 0.5},
    {"top_p": 0.999, "temperature": 3.0},
    {"min_p": 0.2},
    {"top_k": 40, "top_p": 0.9, "min_p": 0.01, "temperature": 0.8},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.6, "temperature": 0.0},
    {"presence_penalty": 1.5, "frequency_penalty": 0.7},
    {"presence_penalty": -1.0, "temperature": 0.0},
    {"logit_bias": {10: 12.0, 11: -100.0}},
    {"logit_bias": {4: 30.0}, "temperature": 0.0},
    {"min_tokens": 50, "stop_token_ids": [8], "logit_bias": {2: 50.0, 3: 50.0, 8: 50.0}},
    {"min_tokens": 3, "logit_bias": {2: 50.0}},
]


def varied_sequences(round_: int) -> list[Sequence]:
    outputs = [9, 10, 9, 11, 5][: round_ % 6]
    return [
        sequence_of(outputs=outputs, seed=1000 * round_ + row, **fields)  # type: ignore[arg-type]
        for row, fields in enumerate(PARAMETERS)
    ]


@pytest.mark.parametrize("round_", range(12))
def test_a_batch_of_mixed_parameters_gives_what_each_row_gives_in_plain_arithmetic(round_: int) -> None:
    sequences = varied_sequences(round_)
    logits = random_logits(len(sequences), seed=round_)
    tokens = [token.token_id for token in sample(logits, sequences)]
    assert tokens == [plain_token(row, sequence) for row, sequence in zip(logits, sequences, strict=True)]


def test_a_kept_batch_follows_the_sequences_as_they_grow() -> None:
    sequences, sampler = varied_sequences(0), Sampler(vocab_size=VOCAB_SIZE, eos_token_ids=EOS)
    for step in range(15):
        logits = random_logits(len(sequences), seed=step)
        expected = [plain_token(row, sequence) for row, sequence in zip(logits, sequences, strict=True)]
        tokens = [token.token_id for token in sample(logits, sequences, sampler)]
        assert tokens == expected
        for sequence, token_id in zip(sequences, tokens, strict=True):
            sequence.token_ids.append(token_id)
        if step == 9:
            sequences = sequences[3:-2]


def test_what_is_drawn_depends_on_neither_the_row_nor_the_rest_of_the_batch() -> None:
    sequences, logits = varied_sequences(4), random_logits(len(PARAMETERS))
    together = [token.token_id for token in sample(logits, sequences)]
    order = torch.randperm(len(sequences), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = [token.token_id for token in sample(logits[order], [sequences[row] for row in order])]
    assert shuffled == [together[row] for row in order]
    alone = [sample(logits[row : row + 1], [sequence])[0].token_id for row, sequence in enumerate(sequences)]
    assert alone == together


def test_resumed_tokens_count_as_output_for_noise_penalties_and_min_tokens() -> None:
    fields: dict[str, object] = {"frequency_penalty": 1.0, "min_tokens": 2, "logit_bias": {2: 3.0}}
    logits = random_logits(1)
    for seed in range(20):
        sampled = sample(logits, [sequence_of(outputs=[9, 9, 12], seed=seed, **fields)])  # type: ignore[arg-type]
        resumed = sample(logits, [sequence_of(resume_token_ids=[9, 9, 12], seed=seed, **fields)])
        assert resumed == sampled


@pytest.mark.parametrize("fields", [{}, {"top_p": 0.8}, {"top_k": 5}, {"min_p": 0.1, "temperature": 1.5}])
def test_draws_follow_the_filtered_distribution(fields: dict[str, object]) -> None:
    """Chi-square over 20,000 seeds; the bound is the 0.9999 quantile (Wilson-Hilferty), so a failure is no accident."""
    num_draws, logits = 20_000, random_logits(1, seed=3)[:, :40]
    sequences = [sequence_of(seed=seed, **fields) for seed in range(num_draws)]  # type: ignore[arg-type]
    tokens = sample(logits.expand(num_draws, -1), sequences)
    observed = np.bincount([token.token_id for token in tokens], minlength=40)
    expected = plain_distribution(logits[0], sequences[0]) * num_draws
    assert not observed[expected == 0].any()
    large = expected >= 5
    statistic = float(((observed - expected)[large] ** 2 / expected[large]).sum())
    freedom = int(large.sum()) - 1
    spread = 2 / (9 * freedom)
    assert statistic < freedom * (1 - spread + 3.72 * math.sqrt(spread)) ** 3


def test_successive_positions_of_one_seed_are_as_good_as_independent() -> None:
    positions = np.arange(200_000, dtype=np.uint64)
    noise = uniform_noise(np.full(len(positions), 7, dtype=np.uint64), positions)
    assert abs(noise.mean() - 0.5) < 0.005
    assert abs(np.corrcoef(noise[:-1], noise[1:])[0, 1]) < 0.01
    of_next_seed = uniform_noise(np.full(len(positions), 8, dtype=np.uint64), positions)
    assert abs(np.corrcoef(noise, of_next_seed)[0, 1]) < 0.01


def test_noise_is_the_published_hash_and_never_0_or_1() -> None:
    state = np.array([1234567], dtype=np.uint64)
    assert splitmix64(state)[0] == 6457827717110365317, "first output of the reference code for this seed"
    extremes = uniform_noise(np.array([0, 2**64 - 1], dtype=np.uint64), np.array([0, 2**63], dtype=np.uint64))
    assert ((extremes > 0) & (extremes < 1)).all()


def test_a_negative_seed_and_a_very_long_one_are_seeds_too() -> None:
    logits = random_logits(3)
    tokens = sample(logits, [sequence_of(seed=seed) for seed in (-1, 2**64 - 1, 2**70 + 5)])
    assert len(tokens) == 3
    assert sample(logits[:1], [sequence_of(seed=-1)])[0] == sample(logits[:1], [sequence_of(seed=2**64 - 1)])[0]


def test_tokens_that_tie_at_a_filter_are_kept_together() -> None:
    logits = torch.full((1, VOCAB_SIZE), -5.0)
    logits[0, [4, 9, 30]] = 1.0
    for fields in ({"top_k": 2}, {"top_p": 0.4}):
        drawn = {sample(logits, [sequence_of(seed=seed, **fields)])[0].token_id for seed in range(60)}
        assert drawn == {4, 9, 30}


@pytest.mark.parametrize("fields", [{"temperature": 0.0}, {}, {"top_p": 0.9, "top_k": 5, "min_p": 0.1}])
def test_a_row_that_is_not_a_number_fails_alone(fields: dict[str, object]) -> None:
    logits = random_logits(4)
    sequences = [sequence_of(seed=seed, **fields) for seed in range(4)]  # type: ignore[arg-type]
    expected = sample(logits, sequences)
    logits[1, 17] = float("nan")
    logits[2] = float("nan")
    tokens = sample(logits, sequences)
    assert [tokens[row] for row in (0, 3)] == [expected[row] for row in (0, 3)]
    assert all(tokens[row].error and "not a number" in tokens[row].error for row in (1, 2))


EXTREMES: list[tuple[dict[str, object], str | None]] = [
    ({"temperature": 1e39}, None),
    ({"temperature": 1e39, "min_tokens": 4, "num_logprobs": 1}, None),
    ({"top_k": 2**63}, None),
    ({"top_k": 2**70, "top_p": 1e-320, "min_p": 1.0}, None),
    ({"logit_bias": {5: 1e39}}, None),
    ({"logit_bias": {5: -1e39, 6: 1e300}, "temperature": 0.0}, None),
    ({"repetition_penalty": 1e39}, None),
    ({"repetition_penalty": 1e-40}, "this request"),
    ({"stop_token_ids": list(range(VOCAB_SIZE)), "min_tokens": 3, "num_logprobs": 1}, "no token is left"),
    ({"stop_token_ids": list(range(VOCAB_SIZE)), "min_tokens": 3, "temperature": 0.0}, "no token is left"),
]


@pytest.mark.parametrize(("fields", "complaint"), EXTREMES)
def test_extreme_parameters_give_a_token_of_the_vocabulary_or_fail_their_own_request_alone(
    fields: dict[str, object], complaint: str | None
) -> None:
    logits = random_logits(3)
    neighbours = [sequence_of(seed=seed, num_logprobs=0) for seed in (1, 2)]
    expected = sample(logits[[0, 2]], neighbours)
    first, extreme, last = sample(logits, [neighbours[0], sequence_of(**fields), neighbours[1]])  # type: ignore[arg-type]
    assert [first, last] == expected
    assert 0 <= extreme.token_id < VOCAB_SIZE
    if complaint is None:
        assert extreme.error is None
    else:
        assert extreme.error is not None
        assert complaint in extreme.error
        assert "weights" not in extreme.error


@pytest.mark.parametrize("fields", [{}, {"num_logprobs": 2}, {"logit_bias": {5: 1e39}}, {"temperature": 0.0}])
def test_a_model_that_gives_no_number_is_blamed_before_the_request(fields: dict[str, object]) -> None:
    for broken in (math.nan, -math.inf):
        [token] = sample(torch.full((1, VOCAB_SIZE), broken), [sequence_of(**fields)])  # type: ignore[arg-type]
        assert token.error is not None
        assert "weights or the dtype" in token.error


def test_presence_and_frequency_count_the_output_and_not_the_prompt() -> None:
    logits = torch.zeros((1, VOCAB_SIZE))
    logits[0, PROMPT[0]], logits[0, 700] = 1.0, 0.5
    for fields in ({"presence_penalty": 1.0}, {"frequency_penalty": 1.0}):
        for outputs, expected in (([], PROMPT[0]), ([PROMPT[0]], 700)):
            sequence = sequence_of(outputs=outputs, temperature=0.0, **fields)  # type: ignore[arg-type]
            assert sample(logits, [sequence])[0].token_id == expected


def test_top_p_keeps_no_token_beyond_those_that_reach_it() -> None:
    off = torch.zeros(1)
    weights = torch.tensor([[0.5, 1.0, 0.25, 0.25]])
    Filters(min_p=off, top_k=off.long(), top_p=torch.tensor([0.5]), vocab_size=4).apply(weights)
    assert weights.tolist() == [[0.0, 1.0, 0.0, 0.0]]


def test_log_probabilities_are_those_of_the_raw_logits() -> None:
    logits = random_logits(3)
    sequences = [
        sequence_of(num_logprobs=3, temperature=0.0, logit_bias={50: 100.0}),
        sequence_of(),
        sequence_of(num_logprobs=0, temperature=0.2),
    ]
    first, second, third = (token.logprobs for token in sample(logits, sequences))
    expected = torch.log_softmax(logits, dim=-1)
    assert first is not None
    assert first.token_id == 50
    assert first.logprob == pytest.approx(float(expected[0, 50]), abs=1e-5)
    assert first.top_ids == expected[0].topk(3).indices.tolist()
    assert first.top_logprobs == pytest.approx(expected[0].topk(3).values.tolist(), abs=1e-5)
    assert second is None
    assert third is not None
    assert (third.top_ids, third.top_logprobs) == ([], [])


def test_prompt_log_probabilities_of_chunks_join_to_those_of_the_prompt() -> None:
    prompt = list(range(20, 32))
    sequence = sequence_of(prompt=prompt, num_prompt_logprobs=2, resume_token_ids=[1])
    logits, sampler = random_logits(13), Sampler(vocab_size=VOCAB_SIZE, eos_token_ids=EOS)
    joined = []
    for start, end in ((0, 5), (5, 6), (6, 13)):
        plan = StepPlan([ScheduledSequence(sequence_of(), 0, 1), ScheduledSequence(sequence, start, end - start)])
        joined += sampler.prompt_logprobs(StepLogits(logits[:0], {1: logits[start:end]}), plan)[1]
    expected = torch.log_softmax(logits, dim=-1)
    assert [position.token_id for position in joined] == prompt[1:]
    for position, row in zip(joined, expected, strict=False):
        assert position.logprob == pytest.approx(float(row[position.token_id]), abs=1e-5)
        assert position.top_ids == row.topk(2).indices.tolist()


def test_a_step_that_samples_nothing_gives_nothing() -> None:
    assert sample(random_logits(0), []) == []
