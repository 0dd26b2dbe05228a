import re
from itertools import pairwise

import pytest
from workload_tokenizer import byte_level_tokenizer

from enginebay.errors import LoadTestError
from enginebay.loadtest.plan import Load, PlannedRequest
from enginebay.loadtest.tokenizer import FileTokenizer
from enginebay.loadtest.workloads import (
    PromptWriter,
    Quantity,
    SyntheticWorkload,
    UniformLengths,
    make_plan,
    read_corpus,
)
from enginebay.types import SamplingParams

GREEDY = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)

SIXTEEN_USERS = (Load(users=16),)


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "with BOS"])
def tokenizer(request, tmp_path_factory) -> FileTokenizer:
    return byte_level_tokenizer(tmp_path_factory.mktemp("model"), adds_bos=request.param)


def workload(*, inputs: tuple[int, int] = (16, 256), outputs: tuple[int, int] = (16, 64)) -> SyntheticWorkload:
    return SyntheticWorkload(input_tokens=UniformLengths(*inputs), output_tokens=UniformLengths(*outputs))


def plan_of(tokenizer: FileTokenizer, *, seed: int = 0, loads=SIXTEEN_USERS, num_requests=48, sampling=GREEDY, **more):
    form = more.pop("form", "text")
    return make_plan(
        workload(**more),
        loads,
        quantity=Quantity(num_requests=num_requests, num_warmup_requests=4),
        model="m",
        sampling=sampling,
        seed=seed,
        tokenizer=tokenizer,
        form=form,
    )


def everything_sent(plan) -> list[PlannedRequest]:
    return [request for load in plan.loads for request in (*load.warmup, *load.requests)]


def test_fewer_requests_than_users_are_refused(tokenizer) -> None:
    with pytest.raises(LoadTestError, match="50 users need at least 50 requests, and there are 3"):
        plan_of(tokenizer, loads=(Load(users=1), Load(users=50)), num_requests=3)


def test_prompts_have_exactly_the_planned_number_of_tokens_when_encoded_again(tokenizer) -> None:
    for request in everything_sent(plan_of(tokenizer)):
        assert request.text is not None
        assert len(tokenizer.encode(request.text)) == request.num_prompt_tokens


def test_lengths_cover_the_asked_range_and_stay_inside(tokenizer) -> None:
    requests = plan_of(tokenizer, num_requests=300, inputs=(4, 9)).loads[0].requests
    assert {request.num_prompt_tokens for request in requests} == set(range(4, 10))
    assert {request.sampling.max_tokens for request in requests} == set(range(16, 65))


def longest_shared_prefix(tokenizer: FileTokenizer, texts: list[str]) -> int:
    """In tokens, special ones left out; after sorting, the nearest relatives are neighbours."""
    prompts = sorted(tokenizer.encode_plain(text) for text in texts)
    return max(shared_prefix(one, other) for one, other in pairwise(prompts))


def shared_prefix(one: list[int], other: list[int]) -> int:
    return next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def test_no_two_prompts_of_any_load_or_warm_up_share_half_a_cache_block(tokenizer) -> None:
    sent = everything_sent(plan_of(tokenizer, loads=(Load(users=1), Load(users=8), Load(rate=2.0, arrivals="poisson"))))
    assert len(sent) == 3 * 52
    assert longest_shared_prefix(tokenizer, [request.text for request in sent]) < 8


def test_when_every_word_was_first_once_pairs_of_words_go_on_being_new(tokenizer) -> None:
    writer = PromptWriter(tokenizer, seed=0)
    texts = [writer.write(24)[0] for _ in range(1500)]
    assert len({tuple(text.split()[:2]) for text in texts}) == 1500


def test_the_warm_up_shares_no_prompt_with_the_run(tokenizer) -> None:
    [load] = plan_of(tokenizer).loads
    assert len(load.warmup) == 4
    assert not {request.text for request in load.warmup} & {request.text for request in load.requests}


def test_equal_seeds_give_equal_plans_and_other_seeds_others(tokenizer) -> None:
    assert plan_of(tokenizer, seed=5).sha256 == plan_of(tokenizer, seed=5).sha256
    assert plan_of(tokenizer, seed=5).sha256 != plan_of(tokenizer, seed=6).sha256


def test_every_load_asks_for_the_same_lengths(tokenizer) -> None:
    one, many = plan_of(tokenizer, loads=(Load(users=1), Load(users=8))).loads
    assert [request.num_prompt_tokens for request in one.requests] == [
        request.num_prompt_tokens for request in many.requests
    ]
    assert [request.sampling.max_tokens for request in one.requests] == [
        request.sampling.max_tokens for request in many.requests
    ]
    assert not {request.text for request in one.requests} & {request.text for request in many.requests}


def test_a_closed_loop_has_no_offsets_and_an_open_one_has_rising_ones(tokenizer) -> None:
    closed, steady, random = plan_of(
        tokenizer, loads=(Load(users=2), Load(rate=4.0, arrivals="constant"), Load(rate=4.0, arrivals="poisson"))
    ).loads
    assert {request.offset_s for request in closed.requests} == {None}
    assert [request.offset_s for request in steady.requests][:3] == [0.0, 0.25, 0.5]
    offsets = [request.offset_s for request in random.requests]
    assert offsets == sorted(offsets)
    assert {request.offset_s for request in random.warmup} == {None}


def test_prompts_can_be_token_ids(tokenizer) -> None:
    for request in everything_sent(plan_of(tokenizer, form="token_ids")):
        assert request.text is None
        assert request.token_ids is not None
        assert len(request.token_ids) == request.num_prompt_tokens


def test_prompts_longer_than_the_corpus_are_possible(tokenizer) -> None:
    text, token_ids = PromptWriter(tokenizer, seed=0).write(12_000)
    assert len(token_ids) == len(tokenizer.encode(text)) == 12_000


def test_each_sampled_request_has_a_seed_of_its_own_and_a_greedy_one_none(tokenizer) -> None:
    sampling = SamplingParams(max_tokens=1, temperature=0.7, ignore_eos=True)
    plan = plan_of(tokenizer, sampling=sampling)
    requests = plan.loads[0].requests
    assert len({request.sampling.seed for request in requests}) == len(requests)
    assert {request.sampling.seed for request in plan_of(tokenizer).loads[0].requests} == {None}


def test_a_model_without_a_fast_tokenizer_is_refused(tmp_path) -> None:
    with pytest.raises(LoadTestError, match=r"tokenizer\.json does not exist"):
        FileTokenizer(tmp_path)


def test_the_corpus_is_several_kilobytes_of_prose_and_code() -> None:
    corpus = read_corpus()
    assert len(corpus) > 12_000
    assert len(set(re.findall(r"[a-z]{4,}", corpus.lower()))) > 600
    assert "def moving_average" in corpus
