"""What every kind of workload keeps to, token by token; and beginnings that prompts share."""

from __future__ import annotations

import msgspec
import pytest
from workload_plans import (
    KINDS,
    LENGTHS,
    POISSON,
    TOKENIZERS,
    TWO_USERS,
    everything_sent,
    ids_of,
    longest_known,
    plan_of,
    tokenizer_of,
)

from enginebay.loadtest.plan import Load, Step, load_plan, save_plan
from enginebay.loadtest.tokenizer import FileTokenizer
from enginebay.loadtest.workloads import (
    FixedLength,
    PromptForm,
    PromptWriter,
    SharedPrefixWorkload,
    SyntheticWorkload,
)
from enginebay.loadtest.workloads.sharing import SentPrompts


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request, tmp_path_factory) -> FileTokenizer:
    return tokenizer_of(request.param, tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_prompt_has_the_planned_number_of_tokens_and_shares_as_many_as_told(tokenizer, kind: str) -> None:
    workload, form = KINDS[kind]
    plan = plan_of(tokenizer, workload, TWO_USERS, POISSON, form=form)
    before: list[list[int]] = []
    for request in everything_sent(plan):
        ids = ids_of(tokenizer, request)
        assert len(ids) == request.num_prompt_tokens
        assert request.num_shared_tokens == longest_known(ids, before)
        before.append(ids)
    assert [len(load.requests) for load in plan.loads] == [24, 24]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_one_plan_for_a_seed_that_survives_its_file(tokenizer, tmp_path, kind: str) -> None:
    workload, form = KINDS[kind]
    plan = plan_of(tokenizer, workload, POISSON, form=form)
    assert plan.sha256 == plan_of(tokenizer, workload, POISSON, form=form).sha256
    save_plan(plan, tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan


def test_messages_and_turns_are_part_of_the_hash(tokenizer) -> None:
    plan = plan_of(tokenizer, KINDS["conversation"][0], form="chat")
    request = next(request for request in plan.loads[0].requests if request.after is not None)
    others = [
        msgspec.structs.replace(request, **changes)
        for changes in (
            {"after": None}, {"think_time_s": 9.0}, {"num_shared_tokens": 0}, {"messages": request.messages[:-1]},
        )
    ]  # fmt: skip
    hashes = set()
    for other in (request, *others):
        requests = tuple(other if each.index == request.index else each for each in plan.loads[0].requests)
        loads = (msgspec.structs.replace(plan.loads[0], requests=requests),)
        hashes.add(msgspec.structs.replace(plan, loads=loads).sha256)
    assert len(hashes) == 5


@pytest.mark.parametrize("form", ["text", "chat", "token_ids"])
def test_beginnings_are_shared_within_a_load_warmed_and_new_in_the_next(tokenizer, form: PromptForm) -> None:
    workload = SharedPrefixWorkload(prefix_tokens=50, num_prefixes=3, **LENGTHS)
    plan = plan_of(tokenizer, workload, Load(users=1), Load(users=2), form=form)
    for load in plan.loads:
        # The first with each beginning computes it, in the warm-up; nothing that is measured does.
        assert [request.num_shared_tokens >= 50 for request in load.warmup] == [False, False, False, True]
        around = 24 if form == "chat" else 12  # words alike by chance, and what the template puts between messages
        assert all(50 <= request.num_shared_tokens < 50 + around for request in load.requests)
        beginnings = {tuple(ids_of(tokenizer, request)[:50]) for request in load.requests}
        assert len(beginnings) == 3
    first, second = ({tuple(ids_of(tokenizer, request)[:50]) for request in load.requests} for load in plan.loads)
    assert not first & second


def test_the_shared_part_and_the_own_part_have_exactly_the_lengths_that_were_asked(tokenizer) -> None:
    workload = SharedPrefixWorkload(prefix_tokens=50, input_tokens=FixedLength(20), output_tokens=FixedLength(2))
    requests = plan_of(tokenizer, workload).loads[0].requests
    assert {request.num_prompt_tokens for request in requests} == {70}
    assert len({tuple(tokenizer.encode(request.text or "")[:50]) for request in requests}) == 1
    assert len({request.text for request in requests}) == len(requests)


def test_what_was_sent_before_is_found_wherever_it_stands() -> None:
    sent = SentPrompts()
    assert [sent.add(ids) for ids in [(1, 2, 3), (1, 2, 4), (300, 1), (1, 2, 3), (1,), (300, 2), (255,)]] == [
        0, 2, 0, 3, 1, 1, 0,
    ]  # fmt: skip


def test_no_two_written_texts_begin_alike_however_they_are_written(tokenizer) -> None:
    writer = PromptWriter(tokenizer, seed=0)
    before, before_ids = writer.write(20)
    texts = [writer.write(20)[0], writer.write_inner(20)[0].strip()]
    texts += [writer.write_after(before, before_ids, 20)[0][len(before) :].strip() for _ in range(20)]
    assert len({tuple(text.split()[:2]) for text in texts}) == len(texts)


def test_arrivals_that_end_before_the_requests_do_are_told_as_fewer(tokenizer) -> None:
    short = Load(arrivals="steps", steps=(Step(rate=4.0, duration_s=2.0),))
    workload = SyntheticWorkload(input_tokens=FixedLength(20), output_tokens=FixedLength(4))
    plan = plan_of(tokenizer, workload, short, num_requests=100)
    assert 0 < len(plan.loads[0].requests) < 30
    assert plan.workload.startswith("at most 100 requests, ")
    assert plan_of(tokenizer, workload, num_requests=24).workload.startswith("24 requests, ")
