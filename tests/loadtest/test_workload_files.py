"""A user's own prompts: ShareGPT files, and tables by the names of their fields."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from workload_plans import (
    TOKENIZERS,
    conversations_in,
    everything_sent,
    plan_of,
    tokenizer_of,
)

from enginebay.errors import LoadTestError
from enginebay.loadtest.plan import Load, PlannedMessage
from enginebay.loadtest.tokenizer import FileTokenizer
from enginebay.loadtest.workloads import (
    DatasetWorkload,
    FixedLength,
    TableFields,
    ThinkTime,
    read_sharegpt,
    read_table,
)


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request, tmp_path_factory) -> FileTokenizer:
    return tokenizer_of(request.param, tmp_path_factory.mktemp("model"))


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
