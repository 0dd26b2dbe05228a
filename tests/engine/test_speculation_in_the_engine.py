"""With drafts, good or bad, an engine gives what it gives without, in fewer steps; and nothing of them is left."""

from __future__ import annotations

from collections.abc import Sequence as Many
from dataclasses import dataclass

import pytest
from engine_fakes import EngineUnderTest, Foresight, make_engine, make_request, prompt_of, tokens_alone

from enginebay.engine.speculation.draft_length import DraftCost
from enginebay.engine.speculation.proposer import Draft, Proposer, Wanted
from enginebay.engine.speculation.speculator import Speculator

MAX_MODEL_LEN = 64


def speculating(
    proposer: Proposer, *, num_tokens: int = 4, cost: DraftCost | None = None, **settings: object
) -> EngineUnderTest:
    speculator = Speculator(proposer, max_num_tokens=num_tokens, max_model_len=MAX_MODEL_LEN, cost=cost)
    return make_engine(max_model_len=MAX_MODEL_LEN, speculator=speculator, **settings)  # type: ignore[arg-type]


def expect_tokens_alone(under_test: EngineUnderTest, *requests) -> None:
    for request in requests:
        under_test.engine.add(request)
    under_test.run()
    for request in requests:
        assert under_test.tokens(request.request_id) == tokens_alone(request, max_model_len=MAX_MODEL_LEN)
    under_test.engine.scheduler.pool.check_integrity([])


def test_accepted_drafts_reach_the_client_at_once() -> None:
    under_test = speculating(Foresight())
    expect_tokens_alone(under_test, make_request("a", 5, 11))
    assert [len(output.token_ids) for output in under_test.outputs["a"]] == [1, 5, 5]
    counters = under_test.engine.counters
    assert (counters.num_drafts, counters.num_drafted_tokens, counters.num_accepted_tokens) == (2, 8, 8)
    assert counters.num_steps == 3


def test_a_rejected_draft_costs_nothing_but_the_rest_of_its_draft() -> None:
    under_test = speculating(Foresight(error_rate=1.0))
    expect_tokens_alone(under_test, make_request("a", 5, 11))
    assert [len(output.token_ids) for output in under_test.outputs["a"]] == [1] * 11
    assert under_test.engine.counters.num_accepted_tokens == 0


def test_no_more_is_drafted_than_the_request_has_left() -> None:
    proposer = Foresight()
    expect_tokens_alone(speculating(proposer), make_request("a", 5, 8))
    assert proposer.lengths == [4, 1]


def test_no_more_is_drafted_than_the_context_has_room_for() -> None:
    proposer = Foresight()
    under_test = speculating(proposer)
    expect_tokens_alone(under_test, make_request("a", MAX_MODEL_LEN - 4, 50))
    assert proposer.lengths == [2]
    assert under_test.finish_reason("a") == "length"


@pytest.mark.parametrize("place", range(1, 9))
def test_a_stop_token_inside_an_accepted_run_ends_it_there(place: int) -> None:
    alone = tokens_alone(make_request("a", 5, 20), max_model_len=MAX_MODEL_LEN)
    under_test = speculating(Foresight())
    request = make_request("a", 5, 20, stop_token_ids=[alone[place]])
    expect_tokens_alone(under_test, request)
    assert under_test.finish_reason("a") == "stop"
    assert under_test.outputs["a"][-1].stop_token_id == alone[place]
    assert under_test.engine.counters.num_output_tokens == len(tokens_alone(request, max_model_len=MAX_MODEL_LEN))


def test_some_requests_speculate_beside_others_that_do_not() -> None:
    under_test = speculating(Foresight(only={"a", "c"}), max_num_seqs=4)
    expect_tokens_alone(under_test, *(make_request(name, 5, 16) for name in "abcd"))
    assert [len(under_test.outputs[name]) for name in "abcd"] == [4, 16, 4, 16]


def test_a_request_with_penalties_does_not_speculate() -> None:
    under_test = speculating(Foresight())
    expect_tokens_alone(under_test, make_request("a", 5, 9, presence_penalty=0.5))
    assert under_test.engine.counters.num_drafts == 0


def test_drafts_take_only_tokens_that_the_step_has_left() -> None:
    proposer = Foresight()
    under_test = speculating(proposer, max_num_batched_tokens=6, max_num_seqs=3)
    expect_tokens_alone(under_test, *(make_request(name, 14, 10) for name in "abc"))
    prompts = {name: len(prompt_of(name, 14)) for name in "abc"}
    for step in under_test.runner.plans:
        assert sum(new for _, _, new, _, _ in step) <= 6
        drafts = sum(new - 1 for name, start, new, _, _ in step if start >= prompts[name])
        chunks = [(name, start + new) for name, start, new, _, _ in step if start < prompts[name]]
        assert not drafts or all(end == prompts[name] for name, end in chunks), "a draft took what a prompt waits for"
    assert 0 < max(proposer.lengths) <= 4


def test_drafts_preempt_nobody_and_give_their_blocks_back_with_the_step() -> None:
    requests = [make_request(name, 6, 10) for name in "abc"]
    without = make_engine(max_model_len=MAX_MODEL_LEN, num_blocks=12, block_size=4)
    expect_tokens_alone(without, *requests)
    under_test = speculating(Foresight(error_rate=1.0), num_blocks=12, block_size=4)
    for request in requests:
        under_test.engine.add(request)
    while under_test.engine.has_work:
        under_test.step()
        for sequence in under_test.engine.scheduler.running:
            assert len(sequence.block_table) <= -(-sequence.num_tokens // 4)
    assert under_test.runner.plans[0] == without.runner.plans[0]
    assert under_test.engine.counters.num_preemptions == without.engine.counters.num_preemptions
    assert under_test.engine.counters.num_steps == without.engine.counters.num_steps
    assert under_test.engine.counters.num_drafted_tokens > 0


def test_preempted_requests_go_on_with_their_accepted_tokens() -> None:
    under_test = speculating(Foresight(error_rate=0.3), num_blocks=16, block_size=2, max_num_seqs=4)
    expect_tokens_alone(under_test, *(make_request(name, 8, 20) for name in "abcd"))
    assert under_test.engine.counters.num_preemptions > 0
    assert under_test.engine.counters.num_accepted_tokens > 0


def test_only_accepted_tokens_are_found_by_later_requests() -> None:
    under_test = speculating(Foresight(error_rate=0.5), block_size=2, num_tokens=6)
    first = make_request("first", 5, 24)
    expect_tokens_alone(under_test, first)
    prompt = [*first.prompt_token_ids, *under_test.tokens("first")[:20]]
    expect_tokens_alone(under_test, make_request("second", prompt_token_ids=prompt, max_tokens=8))
    assert under_test.outputs["second"][0].num_cached_tokens == 24


def test_a_request_cancelled_between_drafts_leaves_nothing() -> None:
    under_test = speculating(Foresight(error_rate=0.2))
    under_test.engine.add(make_request("a", 5, 30))
    under_test.engine.add(make_request("b", 5, 30))
    for _ in range(4):
        under_test.step()
    under_test.engine.cancel("a")
    under_test.engine.scheduler.check_integrity()
    under_test.run()
    assert under_test.tokens("b") == tokens_alone(make_request("b", 5, 30), max_model_len=MAX_MODEL_LEN)


@dataclass
class FailsFor:
    """Drafts like `inner`, but fails where one of these requests is among those that it is asked for."""

    broken: set[str]
    error: Exception
    inner: Foresight
    asked: list[list[str]]

    def propose(self, wanted: Many[Wanted]) -> list[Draft]:
        names = [one.sequence.request.request_id for one in wanted]
        self.asked.append(names)
        for one in wanted:
            one.sequence.num_draft_computed_tokens = one.sequence.num_tokens + 1  # it has begun to draft
        if self.broken & set(names):
            raise self.error
        return self.inner.propose(wanted)


def failing_for(*broken: str, error: Exception) -> FailsFor:
    return FailsFor(set(broken), error, Foresight(), [])


def test_a_draft_that_fails_costs_nobody_anything_and_is_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    proposer = failing_for("b", error=RuntimeError("no such n-gram"))
    under_test = speculating(proposer, num_blocks=200)
    requests = [make_request(name, 5, 30) for name in "abc"]
    expect_tokens_alone(under_test, *requests)
    assert {under_test.finish_reason(name) for name in "abc"} == {"length"}
    assert [len(output.token_ids) for output in under_test.outputs["b"]] == [1] * 30
    assert max(len(output.token_ids) for output in under_test.outputs["a"]) == 5
    assert proposer.asked[:4] == [["a", "b", "c"], ["a"], ["b"], ["c"]]
    assert not any("b" in names for names in proposer.asked[4:])
    assert under_test.engine.counters.num_failed_drafts == 1
    assert "drafting failed for request b, which goes on without" in caplog.text
    assert "no such n-gram" in caplog.text


def test_drafts_that_fail_for_everybody_are_counted_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    names = [f"r{index}" for index in range(6)]
    proposer = failing_for(*names, error=RuntimeError("broken for good"))
    expect_tokens_alone(speculating(proposer, num_blocks=200), *(make_request(name, 5, 12) for name in names))
    under_test = speculating(proposer, num_blocks=200)
    caplog.clear()
    expect_tokens_alone(under_test, *(make_request(name, 5, 12) for name in names))
    assert under_test.engine.counters.num_failed_drafts == len(names)
    assert len(caplog.records) == 1


def test_drafts_that_fail_only_together_are_not_tried_in_every_step(caplog: pytest.LogCaptureFixture) -> None:
    """A proposer that is broken for more than one: each alone would hide it, and take as long as all of them."""

    @dataclass
    class FailsTogether(FailsFor):
        def propose(self, wanted: Many[Wanted]) -> list[Draft]:
            self.broken = {one.sequence.request.request_id for one in wanted} if len(wanted) > 1 else set()
            return super().propose(wanted)

    proposer = FailsTogether(set(), RuntimeError("rows of another shape"), Foresight(), [])
    under_test = speculating(proposer, num_blocks=200)
    expect_tokens_alone(under_test, make_request("a", 5, 30), make_request("b", 5, 30))
    assert proposer.asked == [["a", "b"], ["a"], ["b"]]
    assert under_test.engine.counters.num_failed_drafts == 2
    assert "rows of another shape" in caplog.text


def test_what_was_drafted_before_it_failed_does_not_count_as_seen() -> None:
    proposer = failing_for("a", error=RuntimeError("broken"))
    under_test = speculating(proposer)
    under_test.engine.add(make_request("a", 5, 9))
    for _ in range(3):
        under_test.step()
    [sequence] = under_test.engine.scheduler.running
    assert sequence.num_draft_computed_tokens <= sequence.num_computed_tokens
    under_test.run()


def test_a_draft_that_has_no_memory_makes_the_step_smaller_and_the_next_ones_go_without() -> None:
    proposer = failing_for("a", error=MemoryError("no memory for the draft"))
    under_test = speculating(proposer, num_blocks=200)
    expect_tokens_alone(under_test, make_request("a", 5, 12), make_request("b", 5, 12))
    assert {under_test.finish_reason(name) for name in "ab"} == {"length"}
    counters = under_test.engine.counters
    assert (counters.num_out_of_memory > 0, counters.num_failed_drafts) == (True, 0)


def test_a_request_that_is_alone_when_its_draft_has_no_memory_goes_on_without() -> None:
    under_test = speculating(failing_for("a", error=MemoryError("no memory for the draft")))
    expect_tokens_alone(under_test, make_request("a", 5, 12))
    assert under_test.finish_reason("a") == "length"
    assert under_test.engine.counters.num_failed_drafts == 1


def test_drafts_that_never_fit_are_given_up_and_tried_again_now_and_then() -> None:
    proposer = Foresight(error_rate=1.0)
    under_test = speculating(proposer, cost=DraftCost(0.1), num_blocks=200)
    expect_tokens_alone(under_test, *(make_request(f"r{index}", 5, 50) for index in range(4)))
    assert len(proposer.lengths) < 4 * 14
    assert proposer.lengths[-1] == 1


def num_drafted(num_requests: int) -> int:
    """Of drafts of which two in three tokens are right, with as many requests at once."""
    under_test = speculating(
        Foresight(error_rate=0.33), cost=DraftCost(0.1), num_blocks=700, max_num_seqs=num_requests,
        max_num_batched_tokens=512,
    )  # fmt: skip
    expect_tokens_alone(under_test, *(make_request(f"r{index}", 5, 40) for index in range(num_requests)))
    return under_test.engine.counters.num_drafted_tokens


def test_the_more_requests_share_a_step_the_less_each_of_them_drafts() -> None:
    """One more row is cheap beside the weights that one request has to itself, and not beside the rows of many."""
    assert num_drafted(32) / 32 < num_drafted(1) / 3
