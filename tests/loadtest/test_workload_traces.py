"""Prompts as long as those of a trace, which share its blocks."""

from __future__ import annotations

import pytest
from workload_plans import (
    TOKENIZERS,
    ids_of,
    plan_of,
    tokenizer_of,
)

from enginebay.errors import LoadTestError
from enginebay.loadtest.plan import Load
from enginebay.loadtest.tokenizer import FileTokenizer
from enginebay.loadtest.traces import Trace, TracedRequest
from enginebay.loadtest.workloads import (
    PromptForm,
    TraceWorkload,
)


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request, tmp_path_factory) -> FileTokenizer:
    return tokenizer_of(request.param, tmp_path_factory.mktemp("model"))


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
