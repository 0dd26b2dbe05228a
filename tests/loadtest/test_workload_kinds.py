"""Shared beginnings, conversations, files and traces: what each kind sends, token by token."""

from __future__ import annotations

import csv
import json
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest
from workload_tokenizer import byte_level_tokenizer, sentence_piece_tokenizer

from enginebay.errors import LoadTestError
from enginebay.loadtest.plan import Load, Plan, PlannedMessage, PlannedRequest, Step, load_plan, save_plan
from enginebay.loadtest.tokenizer import FileTokenizer
from enginebay.loadtest.traces import Trace, TracedRequest
from enginebay.loadtest.workloads import (
    ConversationWorkload,
    DatasetWorkload,
    EmpiricalLengths,
    FixedLength,
    LogNormalLengths,
    NormalLengths,
    PromptForm,
    PromptWriter,
    Quantity,
    SharedPrefixWorkload,
    SyntheticWorkload,
    TableFields,
    ThinkTime,
    TraceWorkload,
    UniformLengths,
    Workload,
    make_plan,
    read_sharegpt,
    read_table,
)
from enginebay.loadtest.workloads.sharing import SentPrompts
from enginebay.types import Chat, SamplingParams

GREEDY = SamplingParams(max_tokens=1, temperature=0.0)
TWO_USERS, POISSON = Load(users=2), Load(rate=4.0, arrivals="poisson")
LENGTHS = {"input_tokens": UniformLengths(12, 40), "output_tokens": UniformLengths(3, 9)}


@pytest.fixture(scope="module", params=["plain", "with BOS", "SentencePiece"])
def tokenizer(request, tmp_path_factory) -> FileTokenizer:
    folder = tmp_path_factory.mktemp("model")
    if request.param == "SentencePiece":
        return sentence_piece_tokenizer(folder)
    return byte_level_tokenizer(folder, adds_bos=request.param == "with BOS")


def plan_of(
    tokenizer: FileTokenizer,
    workload: Workload,
    *loads: Load,
    form: PromptForm = "text",
    num_requests: int | None = 24,
    num_warmup: int = 4,
    offsets: list[float] | None = None,
) -> Plan:
    return make_plan(
        workload,
        loads or (TWO_USERS,),
        quantity=Quantity(num_requests=num_requests, num_warmup_requests=num_warmup, trace_offsets=offsets or ()),
        model="m",
        sampling=GREEDY,
        seed=3,
        tokenizer=tokenizer,
        form=form,
    )


def ids_of(tokenizer: FileTokenizer, request: PlannedRequest) -> list[int]:
    """Counted again from what is sent."""
    if request.token_ids is not None:
        return list(request.token_ids)
    if request.messages is not None:
        return tokenizer.encode_messages(request.messages)
    return tokenizer.encode(request.text or "")


def everything_sent(plan: Plan) -> list[PlannedRequest]:
    return [request for load in plan.loads for request in (*load.warmup, *load.requests)]


def longest_known(ids: list[int], before: list[list[int]]) -> int:
    def shared(one: list[int], other: list[int]) -> int:
        return next(
            (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(map(len, (one, other)))
        )

    return max((shared(ids, other) for other in before), default=0)


KINDS: dict[str, tuple[Workload, PromptForm]] = {
    "synthetic": (SyntheticWorkload(**LENGTHS), "text"),
    "synthetic chat": (SyntheticWorkload(input_tokens=UniformLengths(40, 80), output_tokens=FixedLength(4)), "chat"),
    "shared prefix": (SharedPrefixWorkload(prefix_tokens=50, num_prefixes=3, **LENGTHS), "text"),
    "shared prefix ids": (SharedPrefixWorkload(prefix_tokens=50, num_prefixes=3, **LENGTHS), "token_ids"),
    "shared prefix chat": (SharedPrefixWorkload(prefix_tokens=50, num_prefixes=3, **LENGTHS), "chat"),
    "conversation": (ConversationWorkload(num_turns=UniformLengths(1, 4), system_tokens=20, **LENGTHS), "chat"),
    "conversation ids": (ConversationWorkload(num_turns=FixedLength(3), **LENGTHS), "token_ids"),
}


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


# ---------------------------------------------------------------- shared beginnings


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


# ---------------------------------------------------------------- conversations


def conversations_in(requests: tuple[PlannedRequest, ...]) -> list[list[PlannedRequest]]:
    found: list[list[PlannedRequest]] = []
    for request in requests:
        if request.after is None:
            found.append([])
        found[-1].append(request)
    return found


def test_a_turn_waits_for_the_one_before_and_has_its_question_and_its_recorded_answer_as_history(tokenizer) -> None:
    workload = ConversationWorkload(
        num_turns=FixedLength(3),
        input_tokens=FixedLength(12),
        output_tokens=FixedLength(7),
        think_time=ThinkTime(mean_s=2.5),
    )
    [load] = plan_of(tokenizer, workload, POISSON, form="chat", num_requests=23).loads
    conversations = conversations_in(load.requests)
    assert [len(turns) for turns in conversations] == [3] * 7 + [2]
    for turns in conversations:
        assert turns[0].offset_s is not None
        assert turns[0].think_time_s == 0.0
        for before, turn in pairwise(turns):
            assert (turn.after, turn.offset_s, turn.think_time_s) == (before.index, None, 2.5)
            assert before.messages is not None
            assert turn.messages is not None
            *history, answer, question = turn.messages
            assert tuple(history) == before.messages
            assert (answer.role, question.role) == ("assistant", "user")
            assert len(tokenizer.encode_plain(answer.content)) == before.sampling.max_tokens == 7
            assert len(tokenizer.encode_plain(question.content)) == 12
            assert turn.num_shared_tokens >= before.num_prompt_tokens
    offsets = [turns[0].offset_s for turns in conversations]
    assert offsets == sorted(offsets)


def test_conversations_of_a_load_share_their_system_message_alone(tokenizer) -> None:
    workload = ConversationWorkload(num_turns=FixedLength(1), system_tokens=30, **LENGTHS)
    [load] = plan_of(tokenizer, workload, form="chat").loads
    systems = {request.messages[0] for request in load.requests if request.messages}
    assert [(message.role, len(tokenizer.encode_plain(message.content))) for message in systems] == [("system", 30)]
    assert all(30 <= request.num_shared_tokens < 50 for request in load.requests)


def test_think_times_have_the_mean_and_the_spread_that_were_asked() -> None:
    rng = np.random.default_rng(0)
    drawn = [ThinkTime(mean_s=3.0, std_s=2.0).draw(rng) for _ in range(20_000)]
    assert np.mean(drawn) == pytest.approx(3.0, abs=4 * 2 / 20_000**0.5)
    assert np.std(drawn) == pytest.approx(2.0, rel=0.1)
    assert min(drawn) > 0
    assert ThinkTime(mean_s=3.0).draw(rng) == 3.0


def test_conversations_cannot_be_raw_text(tokenizer) -> None:
    with pytest.raises(LoadTestError, match="messages cannot be sent as raw text"):
        plan_of(tokenizer, ConversationWorkload(num_turns=FixedLength(2), **LENGTHS))


def test_a_planned_chat_becomes_a_chat_and_counts_what_the_template_adds(tokenizer) -> None:
    workload, form = KINDS["synthetic chat"]
    request = plan_of(tokenizer, workload, form=form).loads[0].requests[0]
    prompt = request.to_request("id").prompt
    assert isinstance(prompt, Chat)
    assert [message.role for message in prompt.messages] == ["user"]
    assert request.num_prompt_tokens > len(tokenizer.encode_plain(str(prompt.messages[0].content)))


def test_a_chat_template_that_leaves_no_room_is_told(tokenizer) -> None:
    workload = SyntheticWorkload(input_tokens=FixedLength(5), output_tokens=FixedLength(1))
    with pytest.raises(LoadTestError, match=r"a prompt of 5 tokens has no room for words: \d+ are special"):
        plan_of(tokenizer, workload, form="chat")


# ---------------------------------------------------------------- files


def sharegpt_file(folder: Path, *, as_lines: bool = False, num: int = 12) -> Path:
    items = [
        {
            "id": f"c{number}",
            "conversations": [
                {"from": "gpt", "value": "left over from before"},
                {"from": "human", "value": f"Question {number} about gauges, bridges and ferries"},
                {"from": "gpt", "value": f"Answer {number}: " + "it depends on the level. " * (number % 3 + 1)},
                {"from": "human", "value": "And in winter"},
                {"from": "gpt", "value": "Less."},
            ],
        }
        for number in range(num)
    ]
    useless = [
        {"conversations": []},
        {"conversations": [{"from": "gpt", "value": "nobody asked"}]},
        {"conversations": [{"from": "human", "value": "one"}, {"from": "human", "value": "two"}]},
    ]
    path = folder / "sharegpt.json"
    every = items + useless
    path.write_text("\n".join(map(json.dumps, every)) if as_lines else json.dumps(every))
    return path


def dataset(path: Path, **options) -> DatasetWorkload:
    return DatasetWorkload(path=path, entries=read_sharegpt(path), **options)


@pytest.mark.parametrize("as_lines", [False, True])
def test_first_questions_of_sharegpt_are_asked_with_outputs_as_long_as_the_answers(
    tokenizer, tmp_path, as_lines
) -> None:
    [load] = plan_of(
        tokenizer, dataset(sharegpt_file(tmp_path, as_lines=as_lines)), num_requests=10, num_warmup=2
    ).loads
    numbers = sorted(int((request.text or "").split()[1]) for request in (*load.warmup, *load.requests))
    assert numbers == list(range(12))
    for request in load.requests:
        number = int((request.text or "").split()[1])
        answer = f"Answer {number}: " + "it depends on the level. " * (number % 3 + 1)
        assert request.sampling.max_tokens == len(tokenizer.encode_plain(answer))


def test_whole_conversations_have_the_recorded_answers_as_history(tokenizer, tmp_path) -> None:
    workload = dataset(sharegpt_file(tmp_path), all_turns=True, think_time=ThinkTime(mean_s=1.0))
    [load] = plan_of(tokenizer, workload, form="chat", num_requests=16, num_warmup=1).loads
    for first, second in conversations_in(load.requests):
        assert second.messages is not None
        roles_and_ends = [(message.role, message.content.split()[0]) for message in second.messages]
        assert roles_and_ends == [("user", "Question"), ("assistant", "Answer"), ("user", "And")]
        assert (second.after, second.think_time_s) == (first.index, 1.0)
        assert second.sampling.max_tokens == len(tokenizer.encode_plain("Less."))


def test_each_load_takes_other_entries_and_too_few_are_told(tokenizer, tmp_path) -> None:
    path = sharegpt_file(tmp_path)
    one, two = plan_of(tokenizer, dataset(path), Load(users=1), Load(users=2), num_requests=5, num_warmup=1).loads
    assert not {request.text for request in one.requests} & {request.text for request in two.requests}
    with pytest.raises(LoadTestError, match=r"12 of its entries can be asked.*set reuse: true"):
        plan_of(tokenizer, dataset(path), Load(users=1), Load(users=2), num_requests=6, num_warmup=1)
    reused = plan_of(tokenizer, dataset(path, reuse=True), Load(users=1), Load(users=2), num_requests=12, num_warmup=0)
    assert all(request.num_shared_tokens == request.num_prompt_tokens for request in reused.loads[1].requests)


def test_arrivals_that_end_before_the_requests_do_are_told_as_fewer(tokenizer) -> None:
    short = Load(arrivals="steps", steps=(Step(rate=4.0, duration_s=2.0),))
    workload = SyntheticWorkload(input_tokens=FixedLength(20), output_tokens=FixedLength(4))
    plan = plan_of(tokenizer, workload, short, num_requests=100)
    assert 0 < len(plan.loads[0].requests) < 30
    assert plan.workload.startswith("at most 100 requests, ")
    assert plan_of(tokenizer, workload, num_requests=24).workload.startswith("24 requests, ")


def test_entries_that_are_too_long_are_left_out_and_counted(tokenizer, tmp_path) -> None:
    path = sharegpt_file(tmp_path)
    short = len(tokenizer.encode_plain("Answer 0: it depends on the level. "))
    plan = plan_of(tokenizer, dataset(path, max_output_tokens=short + 1), num_requests=4, num_warmup=0)
    assert all(request.sampling.max_tokens <= short + 1 for request in everything_sent(plan))
    assert "left out as too long" in plan.workload
    with pytest.raises(LoadTestError, match="none of its 12 entries can be asked"):
        plan_of(tokenizer, dataset(path, max_input_tokens=1), num_requests=4)


def test_a_table_gives_prompts_answers_and_lengths_by_the_names_of_its_fields(tokenizer, tmp_path) -> None:
    lines = tmp_path / "some.jsonl"
    lines.write_text("\n".join(json.dumps({"q": f"why {n}", "a": "because", "n": n + 1}) for n in range(6)))
    table = tmp_path / "some.csv"
    table.write_text("q,a,n\n" + "\n".join(f'"why, {n}",because,{n + 1}' for n in range(6)))
    for path in (lines, table):
        by_answer = DatasetWorkload(path=path, entries=read_table(path, TableFields(prompt="q", answer="a")))
        counted = DatasetWorkload(path=path, entries=read_table(path, TableFields(prompt="q", output_tokens="n")))
        drawn = DatasetWorkload(
            path=path, entries=read_table(path, TableFields(prompt="q")), output_tokens=FixedLength(5)
        )
        lengths = [
            sorted(
                request.sampling.max_tokens
                for request in plan_of(tokenizer, workload, num_requests=6, num_warmup=0).loads[0].requests
            )
            for workload in (by_answer, counted, drawn)
        ]
        assert lengths == [[len(tokenizer.encode_plain("because"))] * 6, [1, 2, 3, 4, 5, 6], [5] * 6]
    with pytest.raises(LoadTestError, match=r"some\.csv:\d: no answer tells how long the output is: set output_tokens"):
        plan_of(tokenizer, DatasetWorkload(path=table, entries=read_table(table, TableFields(prompt="q"))))


def test_a_prompt_of_a_csv_file_may_be_as_long_as_a_book(tmp_path) -> None:
    path = tmp_path / "long.csv"
    book = "word " * 100_000
    path.write_text(f"prompt\n{book}\nshort\n")
    limit = csv.field_size_limit()
    assert [entry.text for entry in read_table(path, TableFields())] == [book, "short"]
    assert csv.field_size_limit() == limit


def test_a_table_of_messages_is_a_chat(tokenizer, tmp_path) -> None:
    path = tmp_path / "chats.jsonl"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why"}]
    path.write_text("\n".join(json.dumps({"messages": chat, "reply": f"because {n}"}) for n in range(4)))
    entries = read_table(path, TableFields(messages="messages", answer="reply"))
    [load] = plan_of(
        tokenizer, DatasetWorkload(path=path, entries=entries), form="chat", num_requests=4, num_warmup=0
    ).loads
    expected = (PlannedMessage(role="system", content="Be brief."), PlannedMessage(role="user", content="Why"))
    assert {request.messages for request in load.requests} == {expected}
    assert all(request.after is None for request in load.requests)


def test_messages_of_a_table_are_one_request_unless_all_its_turns_are_asked_for(tokenizer, tmp_path) -> None:
    path = tmp_path / "chats.jsonl"
    chat = [("user", "Why"), ("assistant", "Because"), ("user", "And then")]
    messages = [{"role": role, "content": content} for role, content in chat]
    path.write_text("\n".join(json.dumps({"messages": messages, "reply": "Nothing more"}) for _ in range(4)))
    entries = read_table(path, TableFields(messages="messages", answer="reply"))

    def asked(*, all_turns: bool) -> list[tuple[int, int | None, int]]:
        workload = DatasetWorkload(path=path, entries=entries, all_turns=all_turns)
        [load] = plan_of(tokenizer, workload, form="chat", num_requests=4, num_warmup=0).loads
        return [(len(each.messages or ()), each.after, each.sampling.max_tokens) for each in load.requests]

    because, nothing = (len(tokenizer.encode_plain(text)) for text in ("Because", "Nothing more"))
    assert asked(all_turns=False) == [(3, None, nothing)] * 4
    assert asked(all_turns=True) == [(1, None, because), (3, 0, nothing), (1, None, because), (3, 2, nothing)]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.jsonl", '{"question": "x"}', r"a\.jsonl:1: has no field 'prompt'; it has question"),
        ("a.jsonl", '{"prompt": 3}', r"a\.jsonl:1: field 'prompt' is no text"),
        ("a.jsonl", '{"prompt": "x"}\n{', r"a\.jsonl:2: is no JSON object"),
        ("a.jsonl", "", "is empty"),
        ("a.csv", "question\nx\n", r"a\.csv:2: has no field 'prompt'"),
    ],
)
def test_a_table_that_has_not_what_it_should_is_refused_with_its_line(tmp_path, name, text, words) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(LoadTestError, match=words):
        read_table(tmp_path / name, TableFields())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "no list `conversations`"),
        ('[{"conversations": [{"from": "martian", "value": "x"}]}]', "nobody knows the speaker 'martian'"),
        ('[{"conversations": [{"from": "human"}]}]', "has no text `value`"),
        ("[]", "has no conversation with a question"),
        ("[1", "neither a JSON list nor JSON lines"),
    ],
)
def test_a_file_that_is_not_sharegpt_is_refused(tmp_path, text: str, words: str) -> None:
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(LoadTestError, match=words):
        read_sharegpt(path)
    with pytest.raises(LoadTestError, match="No such file"):
        read_sharegpt(tmp_path / "nowhere.json")


# ---------------------------------------------------------------- traces

TRACE = Trace(
    name="some.jsonl",
    requests=tuple(
        TracedRequest(at=0.5 * number, num_input_tokens=length, num_output_tokens=number + 1, hash_ids=hash_ids)
        for number, (length, hash_ids) in enumerate(
            [(40, (0, 1, 2)), (36, (0, 1, 3)), (32, (0, 4)), (50, (5, 6, 7, 8)), (19, (0, 9)), (40, (0, 1, 2))]
        )
    ),
    block_tokens=16,
)


@pytest.mark.parametrize("form", ["text", "token_ids"])
def test_a_replayed_trace_has_its_instants_its_lengths_and_its_shared_blocks(tokenizer, form: PromptForm) -> None:
    load = Load(arrivals="trace", trace="some.jsonl", speed=2.0)
    plan = plan_of(tokenizer, TraceWorkload(TRACE), load, form=form, num_requests=None, offsets=TRACE.offsets)
    requests = plan.loads[0].requests
    assert [request.offset_s for request in requests] == pytest.approx([0.0, 0.25, 0.5, 0.75, 1.0, 1.25])
    assert [request.num_prompt_tokens for request in requests] == [40, 36, 32, 50, 19, 40]
    assert [request.sampling.max_tokens for request in requests] == [1, 2, 3, 4, 5, 6]
    shared_blocks = [request.num_shared_tokens // 16 for request in requests]
    assert shared_blocks == [0, 2, 1, 0, 1, 2]
    assert requests[5].num_shared_tokens == 40
    for request in requests:
        assert len(ids_of(tokenizer, request)) == request.num_prompt_tokens


def test_two_speeds_have_prompts_of_their_own_with_one_structure(tokenizer) -> None:
    loads = [Load(arrivals="trace", trace="some.jsonl", speed=speed) for speed in (1.0, 4.0)]
    one, two = plan_of(tokenizer, TraceWorkload(TRACE), *loads, num_requests=None, offsets=TRACE.offsets).loads
    assert [request.num_prompt_tokens for request in one.requests] == [
        request.num_prompt_tokens for request in two.requests
    ]
    assert not {request.text for request in one.requests} & {request.text for request in two.requests}
    assert two.requests[0].num_shared_tokens < 16


def test_a_traced_prompt_with_no_room_for_a_word_beside_special_tokens_is_lengthened_and_told(tokenizer) -> None:
    lengths = (1, 12)
    requests = tuple(TracedRequest(at=0.0, num_input_tokens=length, num_output_tokens=2) for length in lengths)
    load = Load(arrivals="trace", trace="tiny")
    trace = Trace(name="tiny", requests=requests)
    plan = plan_of(tokenizer, TraceWorkload(trace), load, num_requests=None, offsets=[0.0, 0.0])
    fewest = 1 + len(tokenizer.encode(""))
    assert [request.num_prompt_tokens for request in plan.loads[0].requests] == [fewest, 12]
    assert ("1 prompts lengthened to 2 tokens" in plan.workload) == (fewest == 2)


def test_a_trace_cannot_be_a_chat_and_ends_where_it_ends(tokenizer) -> None:
    with pytest.raises(LoadTestError, match="has the lengths of whole prompts"):
        plan_of(tokenizer, TraceWorkload(TRACE), form="chat")
    with pytest.raises(LoadTestError, match="the workload has 6 requests, and 7 are asked for"):
        plan_of(tokenizer, TraceWorkload(TRACE), num_requests=7)


# ---------------------------------------------------------------- lengths


def drawn(lengths, num: int = 20_000) -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.asarray([lengths.draw(rng) for _ in range(num)])


def test_drawn_lengths_have_the_moments_of_their_distribution() -> None:
    normal = drawn(NormalLengths(mean=200, std=30, min=1, max=1000))
    assert normal.mean() == pytest.approx(200, abs=4 * 30 / 141)
    assert normal.std() == pytest.approx(30, rel=0.03)
    long_tailed = drawn(LogNormalLengths(mean=200, std=150, min=1, max=100_000))
    assert long_tailed.mean() == pytest.approx(200, abs=4 * 150 / 141)
    assert np.median(long_tailed) == pytest.approx(200 / (1 + 0.75**2) ** 0.5, rel=0.03)
    recorded = drawn(EmpiricalLengths((5, 5, 5, 80)))
    assert set(recorded) == {5, 80}
    assert (recorded == 5).mean() == pytest.approx(0.75, abs=4 * (0.1875 / 20_000) ** 0.5)


def test_bounds_cut_lengths_and_do_not_heap_them_up_at_the_ends() -> None:
    cut = drawn(NormalLengths(mean=100, std=50, min=80, max=120))
    assert (cut.min(), cut.max()) == (80, 120)
    assert (cut == 80).mean() < 0.04
    with pytest.raises(LoadTestError, match="none lies from 900 to 901"):
        NormalLengths(mean=1, std=0.1, min=900, max=901).draw(np.random.default_rng(0))


def test_what_was_sent_before_is_found_wherever_it_stands() -> None:
    sent = SentPrompts()
    assert [sent.add(ids) for ids in [(1, 2, 3), (1, 2, 4), (300, 1), (1, 2, 3), (1,), (300, 2), (255,)]] == [
        0, 2, 0, 3, 1, 1, 0,
    ]  # fmt: skip


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


def test_no_two_written_texts_begin_alike_however_they_are_written(tokenizer) -> None:
    writer = PromptWriter(tokenizer, seed=0)
    before, before_ids = writer.write(20)
    texts = [writer.write(20)[0], writer.write_inner(20)[0].strip()]
    texts += [writer.write_after(before, before_ids, 20)[0][len(before) :].strip() for _ in range(20)]
    assert len({tuple(text.split()[:2]) for text in texts}) == len(texts)
