"""Prompts that are counted by a server: exact by its tokenizer, with few questions."""

from __future__ import annotations

import pytest
from workload_tokenizer import byte_level_tokenizer, sentence_piece_tokenizer

from enginebay.config.bench import BenchConfig
from enginebay.loadtest.from_config import plan_from_config
from enginebay.loadtest.plan import Plan, PlannedMessage
from enginebay.loadtest.server_tokenizer import ServerTokenizer
from enginebay.loadtest.tokenizer import FileTokenizer
from enginebay.types import Chat, Prompt, Text


class CountingServer:
    """What /tokenize of a server with this tokenizer answers."""

    def __init__(self, tokenizer: FileTokenizer) -> None:
        self.tokenizer = tokenizer
        self.num_questions = 0

    def count_tokens(self, prompt: Prompt) -> tuple[int, ...]:
        self.num_questions += 1
        if isinstance(prompt, Chat):
            messages = [PlannedMessage(role=one.role, content=str(one.content)) for one in prompt.messages]
            return tuple(self.tokenizer.encode_messages(messages))
        assert isinstance(prompt, Text)
        assert prompt.text, "not every server takes an empty prompt"
        return tuple(self.tokenizer.encode(prompt.text))


@pytest.fixture(scope="module", params=["with BOS", "without", "sentence pieces"])
def server(request, tmp_path_factory) -> CountingServer:
    folder = tmp_path_factory.mktemp("model")
    if request.param == "sentence pieces":
        return CountingServer(sentence_piece_tokenizer(folder))
    return CountingServer(byte_level_tokenizer(folder, adds_bos=request.param == "with BOS"))


def plan_of(server: CountingServer, **section: object) -> Plan:
    settings = {"users": [2], "num_requests": 12, "warmup_requests": 2, "prompt_counts": "server", **section}
    tokenizer = ServerTokenizer(server.count_tokens)
    return plan_from_config(BenchConfig.model_validate(settings), model="any", tokenizer=tokenizer)


def ids_of(server: CountingServer, request) -> list[int]:
    if request.messages is not None:
        return server.tokenizer.encode_messages(request.messages)
    return list(request.token_ids or server.tokenizer.encode(request.text))


WORKLOADS = [
    {"input_tokens": {"min": 24, "max": 256}},
    {"input_tokens": {"min": 24, "max": 256}, "prompt_form": "token_ids"},
    {"input_tokens": {"min": 48, "max": 128}, "prompt_form": "chat"},
    {"workload": {"kind": "shared_prefix", "prefix_tokens": 64, "num_prefixes": 2}, "input_tokens": 32},
    {"workload": {"kind": "conversation", "turns": 2}, "input_tokens": 24, "output_tokens": 12},
]


@pytest.mark.parametrize("section", WORKLOADS, ids=["text", "token ids", "chat", "shared prefix", "conversation"])
def test_every_workload_has_the_lengths_that_the_server_will_count(server, section) -> None:
    plan = plan_of(server, **section)
    for load in plan.loads:
        assert load.prompt_counts == "server"
        for request in (*load.warmup, *load.requests):
            assert len(ids_of(server, request)) == request.num_prompt_tokens


def test_a_prompt_costs_few_questions_and_the_same_seed_makes_the_same_plan(server) -> None:
    before = server.num_questions
    plan = plan_of(server, num_requests=40, input_tokens={"min": 32, "max": 256})
    assert server.num_questions - before <= 8 * 42
    assert plan.sha256 == plan_of(server, num_requests=40, input_tokens={"min": 32, "max": 256}).sha256
    assert plan.workload.endswith("prompts counted by the server")


def test_special_tokens_are_told_from_those_of_the_text(server) -> None:
    tokenizer, text = ServerTokenizer(server.count_tokens), "The lantern burned all night."
    assert tokenizer.encode_plain(text) == server.tokenizer.encode_plain(text)
    assert tokenizer.encode("") == server.tokenizer.encode("")
    assert tokenizer.encode_plain("") == []
