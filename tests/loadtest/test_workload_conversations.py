"""Conversations of several turns, and chats of one."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from workload_plans import (
    KINDS,
    LENGTHS,
    POISSON,
    TOKENIZERS,
    conversations_in,
    plan_of,
    tokenizer_of,
)

from enginebay.errors import LoadTestError
from enginebay.loadtest.tokenizer import FileTokenizer
from enginebay.loadtest.workloads import (
    ConversationWorkload,
    FixedLength,
    SyntheticWorkload,
    ThinkTime,
)
from enginebay.types import Chat


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request, tmp_path_factory) -> FileTokenizer:
    return tokenizer_of(request.param, tmp_path_factory.mktemp("model"))


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
