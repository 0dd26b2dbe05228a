"""Rejection sampling gives the distribution of the model, whatever the draft: chi-square on a tiny vocabulary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Many

import numpy as np
import pytest
import torch
from engine_fakes import make_request
from numpy.typing import NDArray
from torch import Tensor

from enginebay.engine.logits import StepLogits
from enginebay.engine.noise import ACCEPTANCE, DRAFTS, TOKENS, uniform_noise
from enginebay.engine.plan import ScheduledSequence, StepPlan
from enginebay.engine.sampler import Sampler
from enginebay.engine.sampling_batch import SamplingBatch
from enginebay.engine.sequence import Sequence
from enginebay.engine.speculation.draft_model import DraftModelProposer
from enginebay.engine.speculation.proposer import Proposer, Wanted

VOCAB_SIZE = 6
PROMPT = [1, 2]
NUM_SEEDS = 6_000
BATCH_SIZE = 1_000
SAMPLINGS: dict[str, dict[str, object]] = {
    "plain": {},
    "top_p": {"top_p": 0.7, "temperature": 1.3},
    "top_k": {"top_k": 3},
    "min_p and bias": {"min_p": 0.1, "logit_bias": {3: 1.5, 0: -1.0}},
}


class TinyLanguage:
    """Logits of the next token by the one before it; runs plans without keys, values or blocks."""

    shares_cache = True

    def __init__(self, seed: int, *, sharpness: float = 1.5) -> None:
        self.table = torch.randn((VOCAB_SIZE, VOCAB_SIZE), generator=torch.Generator().manual_seed(seed)) * sharpness

    def logits(self, plan: StepPlan) -> Tensor:
        """What a draft model tells: of the newest token of each."""
        return self.table[[_tokens(item)[item.start + item.num_new_tokens - 1] for item in plan.sampled]]

    def step_logits(self, plan: StepPlan) -> StepLogits:
        newest = [item.sequence.token_ids[-1] for item in plan.sampled]
        return StepLogits(self.table[newest + [draft for item in plan.sampled for draft in item.draft_token_ids]])


def _tokens(item: ScheduledSequence) -> list[int]:
    return [*item.sequence.token_ids, *item.draft_token_ids]


def speculated(
    target: TinyLanguage, proposer: Proposer | None, *, num_drafts: int, num_tokens: int, sampling: dict[str, object]
) -> list[list[int]]:
    """The first num_tokens tokens of NUM_SEEDS requests that differ only in their seed."""
    sampler = Sampler(vocab_size=VOCAB_SIZE, eos_token_ids=())
    outputs: list[list[int]] = []
    for first_seed in range(0, NUM_SEEDS, BATCH_SIZE):
        sequences = [
            Sequence(
                make_request(str(seed), prompt_token_ids=PROMPT, max_tokens=99, **{"seed": seed, **sampling}),
                arrived_at=0.0,
            )
            for seed in range(first_seed, first_seed + BATCH_SIZE)
        ]
        while any(sequence.num_output_tokens < num_tokens for sequence in sequences):
            _step(target, proposer, sampler, sequences, num_drafts=num_drafts)
        outputs += [sequence.output_token_ids[:num_tokens] for sequence in sequences]
    return outputs


def _step(
    target: TinyLanguage, proposer: Proposer | None, sampler: Sampler, sequences: Many[Sequence], *, num_drafts: int
) -> None:
    for sequence in sequences:
        sequence.num_computed_tokens = sequence.num_tokens - 1
    items = [ScheduledSequence(sequence, sequence.num_tokens - 1, 1, samples=True) for sequence in sequences]
    if proposer is not None:
        drafts = proposer.propose([Wanted(sequence, num_drafts) for sequence in sequences])
        for item, draft in zip(items, drafts, strict=True):
            assert len(draft.token_ids) == num_drafts
            item.draft_token_ids, item.draft_probabilities = draft.token_ids, draft.probabilities
            item.num_new_tokens += num_drafts
    plan = StepPlan(items)
    for sequence, tokens in zip(sequences, sampler.sample(target.step_logits(plan), plan), strict=True):
        assert 1 <= len(tokens) <= num_drafts + 1
        sequence.token_ids += [token.token_id for token in tokens]


def proposer_of(draft: TinyLanguage, *, draws: bool = True) -> DraftModelProposer:
    return DraftModelProposer(
        draft, vocab_size=VOCAB_SIZE, eos_token_ids=(), device=torch.device("cpu"), max_num_batched_tokens=10**6,
        draws=draws,
    )  # fmt: skip


def distribution(target: TinyLanguage, sampling: dict[str, object]) -> NDArray[np.float64]:
    """(VOCAB_SIZE, VOCAB_SIZE): of the next token by the one before, after temperature and filters."""
    sequences = [Sequence(make_request("a", **{"seed": 0, **sampling}), arrived_at=0.0)] * VOCAB_SIZE
    batch = SamplingBatch(sequences, eos_token_ids=(), vocab_size=VOCAB_SIZE, device=torch.device("cpu"))
    scores = batch.adjusted(target.table)
    return batch.probabilities(scores, scores.max(dim=-1).values).double().numpy()


def expect_law(outputs: list[list[int]], p: NDArray[np.float64]) -> None:
    """Of the first three tokens together: what a rejection at one place does to the next would show."""
    last = PROMPT[-1]
    joint = p[last][:, None, None] * p[:, :, None] * p[None, :, :]
    counts = Counter(tuple(output[:3]) for output in outputs)
    observed = np.array([[[counts[a, b, c] for c in range(VOCAB_SIZE)] for b in range(VOCAB_SIZE)]
                         for a in range(VOCAB_SIZE)])  # fmt: skip
    expected = joint * len(outputs)
    assert observed[joint == 0].sum() == 0, "a token was drawn that the request does not allow"
    is_large = expected >= 5
    rest_observed, rest_expected = observed[~is_large].sum(), expected[~is_large].sum()
    pooled = ([rest_observed], [rest_expected]) if rest_expected >= 5 else ([], [])
    f_observed = np.concatenate([observed[is_large], pooled[0]])
    f_expected = np.concatenate([expected[is_large], pooled[1]])
    deviation = normal_deviate(float(((f_observed - f_expected) ** 2 / f_expected).sum()), len(f_observed) - 1)
    assert deviation < 3.9, f"chi-square lies {deviation:.1f} standard deviations beyond its mean"


def normal_deviate(chi_square: float, degrees_of_freedom: int) -> float:
    """Wilson and Hilferty 1931: the cube root of a chi-square variable is close to normal."""
    variance = 2 / (9 * degrees_of_freedom)
    return ((chi_square / degrees_of_freedom) ** (1 / 3) - (1 - variance)) / variance**0.5


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> None:
    torch.set_num_threads(1)  # two that fight for a busy core are many times slower than one


@pytest.mark.parametrize("name", SAMPLINGS)
def test_drawn_drafts_leave_the_distribution_as_it_is(name: str) -> None:
    target, draft = TinyLanguage(0), TinyLanguage(1)
    outputs = speculated(target, proposer_of(draft), num_drafts=2, num_tokens=3, sampling=SAMPLINGS[name])
    expect_law(outputs, distribution(target, SAMPLINGS[name]))


@pytest.mark.parametrize("sharpness", [8.0])
def test_a_draft_that_is_sure_of_the_wrong_leaves_it_too(sharpness: float) -> None:
    target, draft = TinyLanguage(0), TinyLanguage(5, sharpness=sharpness)
    outputs = speculated(target, proposer_of(draft), num_drafts=3, num_tokens=3, sampling={})
    expect_law(outputs, distribution(target, {}))


def test_drafts_without_a_draw_give_the_tokens_of_every_seed_as_they_are() -> None:
    target, draft = TinyLanguage(0), TinyLanguage(1)
    sampling = SAMPLINGS["top_p"]
    plain = speculated(target, None, num_drafts=0, num_tokens=4, sampling=sampling)
    outputs = speculated(target, proposer_of(draft, draws=False), num_drafts=2, num_tokens=4, sampling=sampling)
    assert outputs == plain
    expect_law(plain, distribution(target, sampling))


def test_the_test_sees_a_wrong_law() -> None:
    target, other = TinyLanguage(0), TinyLanguage(3, sharpness=0.3)
    outputs = speculated(target, None, num_drafts=0, num_tokens=3, sampling={})
    blurred = 0.93 * distribution(target, {}) + 0.07 * distribution(other, {})
    with pytest.raises(AssertionError, match="chi-square"):
        expect_law(outputs, blurred)


def test_a_draft_like_the_model_is_always_accepted_and_the_others_as_often_as_the_two_agree() -> None:
    target = TinyLanguage(0)
    sequences = [Sequence(make_request(str(seed), prompt_token_ids=PROMPT, seed=seed), arrived_at=0.0)
                 for seed in range(NUM_SEEDS)]  # fmt: skip
    assert acceptance(target, target, sequences) == 1.0
    draft = TinyLanguage(1)
    overlap = np.minimum(distribution(target, {})[PROMPT[-1]], distribution(draft, {})[PROMPT[-1]]).sum()
    assert acceptance(target, draft, sequences) == pytest.approx(overlap, abs=0.02)


def acceptance(target: TinyLanguage, draft: TinyLanguage, sequences: list[Sequence]) -> float:
    """Of the first drafts."""
    for sequence in sequences:
        del sequence.token_ids[len(PROMPT) :]
    before = [sequence.num_tokens for sequence in sequences]
    _step(target, proposer_of(draft), Sampler(vocab_size=VOCAB_SIZE, eos_token_ids=()), sequences, num_drafts=1)
    return sum(s.num_tokens - first - 1 for s, first in zip(sequences, before, strict=True)) / len(sequences)


def test_the_streams_of_noise_have_nothing_in_common() -> None:
    seeds, positions = np.arange(4000, dtype=np.uint64), np.zeros(4000, dtype=np.uint64)
    streams = [uniform_noise(seeds, positions, stream) for stream in (TOKENS, DRAFTS, ACCEPTANCE)]
    correlation = np.corrcoef(streams)
    assert np.abs(correlation - np.eye(3)).max() < 0.06


def test_a_row_without_usable_logits_costs_the_draft_and_not_the_token_before_it() -> None:
    target = TinyLanguage(0)
    target.table[4] = torch.nan
    request = make_request("a", prompt_token_ids=PROMPT, seed=3)
    sequence = Sequence(request, arrived_at=0.0)
    sampler = Sampler(vocab_size=VOCAB_SIZE, eos_token_ids=())
    plain_plan = StepPlan([ScheduledSequence(sequence, 1, 1, samples=True)])
    [[plain]] = sampler.sample(target.step_logits(plain_plan), plain_plan)
    for probabilities in (None, torch.full((2, VOCAB_SIZE), 1 / VOCAB_SIZE)):
        item = ScheduledSequence(
            sequence, 1, 3, samples=True, draft_token_ids=[4, 4], draft_probabilities=probabilities
        )
        plan = StepPlan([item])
        [tokens] = sampler.sample(target.step_logits(plan), plan)
        assert [token.token_id for token in tokens] == [plain.token_id]
        assert tokens[0].error is None


def test_log_probabilities_are_those_of_the_tokens_that_stand() -> None:
    target = TinyLanguage(0)
    sampling: dict[str, object] = {"num_logprobs": 2}
    sampler = Sampler(vocab_size=VOCAB_SIZE, eos_token_ids=())
    for seed in range(40):
        sequence = Sequence(make_request("a", prompt_token_ids=PROMPT, **{"seed": seed, **sampling}), arrived_at=0.0)
        sequence.num_computed_tokens = 1
        [draft] = proposer_of(TinyLanguage(1)).propose([Wanted(sequence, 3)])
        item = ScheduledSequence(sequence, 1, 4, samples=True, draft_token_ids=draft.token_ids,
                                 draft_probabilities=draft.probabilities)  # fmt: skip
        plan = StepPlan([item])
        [tokens] = sampler.sample(target.step_logits(plan), plan)
        before = [PROMPT[-1], *(token.token_id for token in tokens)]
        for previous, token in zip(before, tokens, strict=False):
            assert token.logprobs is not None
            assert token.logprobs.token_id == token.token_id
            expected = target.table[previous].log_softmax(-1)[token.token_id]
            assert token.logprobs.logprob == pytest.approx(float(expected), abs=1e-5)
