"""Deadlines in the engine, on a clock that only ticks: who is refused, when, and what it cost."""

from __future__ import annotations

from collections.abc import Sequence as Many

import pytest
from engine_fakes import EngineUnderTest, Foresight, make_engine, make_request, prompt_of

from enginebay.engine.deadlines import num_certain_tokens
from enginebay.engine.logits import SampledToken, StepLogits
from enginebay.engine.plan import StepPlan
from enginebay.engine.speculation.proposer import Draft, Wanted
from enginebay.engine.speculation.speculator import Speculator
from enginebay.engine.step_times import NUM_SAMPLES_TO_TRUST, STALE_AFTER_S
from enginebay.errors import DeadlineExceeded


def warmed_up(**settings: object) -> EngineUnderTest:
    """Every step has been seen to take a second, of one token or of eight."""
    under_test = make_engine(**settings)  # type: ignore[arg-type]
    for index in range(NUM_SAMPLES_TO_TRUST):
        under_test.engine.add(make_request(f"warm-up {index}", 8, 2))
        under_test.run()
    return under_test


def num_plans(under_test: EngineUnderTest, request_id: str) -> int:
    return sum(any(name == request_id for name, *_ in plan) for plan in under_test.runner.plans)


# ---------------------------------------------------------------- refused at the door


def test_a_deadline_that_has_passed_is_refused_and_leaves_nothing():
    under_test = make_engine()
    with pytest.raises(DeadlineExceeded, match="passed"):
        under_test.engine.add(make_request("late", deadline_at=under_test.clock.instant))
    assert not under_test.engine.has_work
    assert under_test.engine.counters.num_deadline_refused == 1
    under_test.engine.add(make_request("late"))  # its id is free


def test_before_anything_was_measured_nobody_is_refused_for_what_is_to_come():
    under_test = make_engine()
    under_test.engine.add(make_request("hurried", 8, 10, deadline_at=under_test.clock.instant + 0.001))
    assert under_test.engine.counters.num_waiting == 1
    under_test.engine.cancel("hurried")


def test_a_deadline_that_even_the_best_measured_speed_cannot_meet_is_refused_with_the_arithmetic():
    under_test = warmed_up()
    now = under_test.clock.instant
    with pytest.raises(DeadlineExceeded, match=r"9.5 s away and cannot be met: alone.* it would take 10 s"):
        under_test.engine.add(make_request("hurried", 8, 10, deadline_at=now + 9.5))
    under_test.engine.add(make_request("in time", 8, 10, deadline_at=now + 10.0))
    under_test.run()
    assert under_test.finish_reason("in time") == "length"
    assert under_test.clock.instant == now + 10.0


def test_an_output_that_may_end_early_is_not_refused_for_its_max_tokens():
    under_test = warmed_up()
    deadline_at = under_test.clock.instant + 2.0
    for name, fields in (
        ("end of sequence", {"ignore_eos": False}),
        ("stop token", {"stop_token_ids": [5]}),
        ("stop string", {"has_stop_strings": True}),
    ):
        under_test.engine.add(make_request(name, 8, 10, deadline_at=deadline_at, **fields))
        under_test.engine.cancel(name)
    with pytest.raises(DeadlineExceeded):
        under_test.engine.add(
            make_request("min tokens", 8, 10, deadline_at=deadline_at, ignore_eos=False, min_tokens=9)
        )


@pytest.mark.parametrize(
    ("fields", "num_tokens"),
    [
        ({"max_tokens": 7}, 7),
        ({"max_tokens": 0}, 0),
        ({"max_tokens": 7, "ignore_eos": False}, 1),
        ({"max_tokens": 7, "ignore_eos": False, "min_tokens": 3}, 3),
        ({"max_tokens": 0, "ignore_eos": False}, 0),
    ],
)
def test_what_of_an_output_is_certain(fields: dict[str, object], num_tokens: int):
    assert num_certain_tokens(make_request("r", 4, **fields)) == num_tokens  # type: ignore[arg-type]


def test_tokens_that_were_delivered_before_are_not_counted_again():
    under_test = warmed_up()
    deadline_at = under_test.clock.instant + 3.0
    with pytest.raises(DeadlineExceeded):
        under_test.engine.add(make_request("whole", 7, 10, deadline_at=deadline_at))
    under_test.engine.add(make_request("rest", 1, 10, resume_token_ids=[1] * 7, deadline_at=deadline_at))
    under_test.run()
    assert under_test.finish_reason("rest") == "length"


def test_a_prompt_that_the_prefix_cache_holds_may_be_late_and_is_not_refused():
    under_test = warmed_up(max_num_batched_tokens=8)
    under_test.engine.add(make_request("first", 32, 1))
    under_test.run()
    known, deadline_at = prompt_of("first", 32), under_test.clock.instant + 2.0
    under_test.engine.add(make_request("again", 32, 1, prompt_token_ids=known, deadline_at=deadline_at))
    under_test.run()
    assert under_test.finish_reason("again") == "length"
    with pytest.raises(DeadlineExceeded):
        under_test.engine.add(make_request("unknown", 32, 1, deadline_at=under_test.clock.instant + 2.0))


# ---------------------------------------------------------------- while it waits, and while it runs


def test_a_queue_of_hopeless_requests_costs_nothing():
    under_test = warmed_up(max_num_seqs=1)
    start = under_test.clock.instant
    under_test.engine.add(make_request("long", 8, 20))
    for index in range(50):
        under_test.engine.add(make_request(f"hopeless {index}", 8, 5, deadline_at=start + 10.0))
    under_test.engine.add(make_request("patient", 8, 5))
    under_test.run()
    for index in range(50):
        assert num_plans(under_test, f"hopeless {index}") == 0
        [output] = under_test.outputs[f"hopeless {index}"]
        assert (output.finish_reason, output.error_kind) == ("error", "deadline")
    assert under_test.clock.instant == start + 20 + 5
    assert under_test.engine.counters.num_deadline_refused == 50


def test_the_hopeless_are_told_as_soon_as_it_is_known():
    under_test = warmed_up(max_num_seqs=1)
    start = under_test.clock.instant
    under_test.engine.add(make_request("long", 8, 20))
    under_test.engine.add(make_request("hopeless", 8, 5, deadline_at=start + 10.0))
    while "hopeless" not in under_test.outputs:
        under_test.step()
    assert under_test.clock.instant == start + 7.0  # refused at 6.0, told with the step that was computed then


@pytest.mark.parametrize("policy", ["continuous", "naive", "static", "dynamic"])
def test_a_running_request_that_is_late_is_ended_and_its_blocks_are_free(policy: str):
    under_test = make_engine(policy=policy, static_batch_timeout_s=0.0)
    num_free = under_test.engine.counters.num_free_blocks
    under_test.engine.add(make_request("late", 8, 20, deadline_at=under_test.clock.instant + 4.5))
    under_test.run()
    assert len(under_test.tokens("late")) == 5
    assert under_test.outputs["late"][-1].error_kind == "deadline"
    counters = under_test.engine.counters
    assert counters.num_free_blocks == num_free
    assert counters.num_finished_by_reason == {"error": 1}
    assert counters.num_deadline_refused == 0  # it has cost something


def test_its_neighbours_do_not_notice():
    under_test = make_engine()
    under_test.engine.add(make_request("late", 8, 20, deadline_at=under_test.clock.instant + 4.5))
    under_test.engine.add(make_request("other", 8, 20))
    under_test.run()
    alone = make_engine()
    alone.engine.add(make_request("other", 8, 20))
    alone.run()
    assert under_test.tokens("other") == alone.tokens("other")


def test_who_waits_for_a_static_batch_is_told_at_the_deadline_and_not_when_the_batch_forms():
    under_test = make_engine(policy="static", static_batch_timeout_s=60.0)
    deadline_at = under_test.clock.instant + 5.0
    under_test.engine.add(make_request("late", 8, 2, deadline_at=deadline_at))
    assert under_test.engine.next_step_at() == deadline_at
    under_test.run()
    assert under_test.clock.instant == deadline_at
    assert under_test.outputs["late"][-1].error_kind == "deadline"


def test_a_request_that_has_ended_or_was_cancelled_is_not_ended_again():
    under_test = make_engine()
    deadline_at = under_test.clock.instant + 5.0
    under_test.engine.add(make_request("short", 4, 2, deadline_at=deadline_at))
    under_test.engine.add(make_request("cancelled", 4, 20, deadline_at=deadline_at))
    under_test.engine.add(make_request("other", 4, 20))
    under_test.step()
    under_test.engine.cancel("cancelled")
    under_test.run()
    assert under_test.finish_reason("short") == "length"
    assert under_test.engine.counters.num_finished_by_reason == {"length": 2, "abort": 1}


def test_refusals_end_when_the_measurements_are_old_though_nobody_was_computed_since():
    under_test = warmed_up()
    for _ in range(3):
        with pytest.raises(DeadlineExceeded, match="cannot be met"):
            under_test.engine.add(make_request("hurried", 8, 10, deadline_at=under_test.clock.instant + 5))
    under_test.clock.instant += STALE_AFTER_S + 1
    under_test.engine.add(make_request("hurried", 8, 10, deadline_at=under_test.clock.instant + 5))
    under_test.step()
    assert len(under_test.tokens("hurried")) == 1


def test_a_prompt_is_not_thought_as_slow_as_the_decoding_of_many():
    """Of steps in which many are sampled nothing follows about a prompt of as many tokens, which is sampled once."""
    under_test = make_engine(max_num_seqs=8, max_num_batched_tokens=64, num_blocks=200)
    for index in range(8 * NUM_SAMPLES_TO_TRUST):
        under_test.engine.add(make_request(f"r{index}", 1, 4))
    under_test.run()
    under_test.engine.add(make_request("prompt", 8, 1, deadline_at=under_test.clock.instant + 0.5))
    with pytest.raises(DeadlineExceeded):
        under_test.engine.add(make_request("long prompt", 60, 1, deadline_at=under_test.clock.instant + 0.5))


def test_a_short_question_is_not_refused_for_what_long_documents_took():
    under_test = warmed_up_with_long_contexts()
    deadline_at = under_test.clock.instant + 1.0
    under_test.engine.add(make_request("question", 4, 4, deadline_at=deadline_at))
    under_test.run()
    assert under_test.finish_reason("question") == "length"


def test_what_drafting_took_is_not_held_against_those_who_need_not_draft():
    """Drafts take nine seconds and what they are drafted for one: a prompt without output needs no draft."""

    class SlowForesight(Foresight):
        def propose(self, wanted: Many[Wanted]) -> list[Draft]:
            under_test.clock.instant += 9.0
            return super().propose(wanted)

    speculator = Speculator(SlowForesight(), max_num_tokens=4, max_model_len=64, cost=None)
    under_test = make_engine(speculator=speculator, num_blocks=200)
    for index in range(NUM_SAMPLES_TO_TRUST):
        under_test.engine.add(make_request(f"warm-up {index}", 2, 7))
        under_test.run()
    assert under_test.engine.counters.draft_s >= 9.0 * NUM_SAMPLES_TO_TRUST
    under_test.engine.add(make_request("prompt", 60, 0, deadline_at=under_test.clock.instant + 3.0))
    under_test.run()
    assert under_test.finish_reason("prompt") == "length"


def test_what_log_probabilities_took_is_not_held_against_those_who_want_none():
    under_test = make_engine(max_num_batched_tokens=64, num_blocks=200)
    sample = under_test.sampler.sample

    def sample_slowly(logits: StepLogits, plan: StepPlan) -> list[list[SampledToken]]:
        if any(item.sequence.request.num_prompt_logprobs is not None for item in plan.scheduled):
            under_test.clock.instant += 9.0
        return sample(logits, plan)

    under_test.sampler.sample = sample_slowly
    for index in range(NUM_SAMPLES_TO_TRUST):
        under_test.engine.add(make_request(f"scored {index}", 48, 1, num_prompt_logprobs=0))
        under_test.run()
    under_test.engine.add(make_request("plain", 48, 1, deadline_at=under_test.clock.instant + 3.0))
    under_test.run()
    assert under_test.finish_reason("plain") == "length"
    with pytest.raises(DeadlineExceeded, match="cannot be met"):
        under_test.engine.add(make_request("hurried", 48, 1, deadline_at=under_test.clock.instant + 0.5))


def test_a_long_document_is_refused_for_what_long_documents_took():
    under_test = warmed_up_with_long_contexts()
    under_test.engine.add(make_request("short", 2, 2))
    under_test.run()
    with pytest.raises(DeadlineExceeded, match="cannot be met"):
        under_test.engine.add(make_request("document", 48, 8, deadline_at=under_test.clock.instant + 7.0))


def warmed_up_with_long_contexts() -> EngineUnderTest:
    """Steps take a second at 48 tokens of context and more, and nothing below."""
    under_test = make_engine(max_num_seqs=1, step_s=0.0, max_num_batched_tokens=64, num_blocks=200)
    forward = under_test.runner.forward

    def forward_slow_with_context(plan: StepPlan) -> StepLogits:
        if any(item.start + item.num_new_tokens >= 48 for item in plan.scheduled):
            under_test.clock.instant += 1.0
        return forward(plan)

    under_test.runner.forward = forward_slow_with_context
    for index in range(NUM_SAMPLES_TO_TRUST):
        under_test.engine.add(make_request(f"document {index}", 48, 8))
    under_test.run()
    return under_test
