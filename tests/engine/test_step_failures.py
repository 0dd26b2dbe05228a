"""A step that runs out of memory is made smaller; only who cannot be computed even alone fails."""

from __future__ import annotations

import pytest
import torch
from engine_fakes import EngineUnderTest, FakeRunner, TickingClock, make_engine, make_request, tokens_alone

from enginebay.engine.logits import StepLogits
from enginebay.engine.plan import ScheduledSequence, StepPlan
from enginebay.engine.sequence import Sequence
from enginebay.engine.step_ceiling import NUM_FINE_STEPS_TO_RISE, cut, is_out_of_memory

MAX_MODEL_LEN = 64


class SmallRunner(FakeRunner):
    """Has memory for so many tokens in one step, and none for one request in particular."""

    def __init__(self, block_size: int, clock: TickingClock, *, num_tokens: int = 10**6, poisoned: str = "") -> None:
        super().__init__(block_size, clock)
        self.num_tokens, self.poisoned = num_tokens, poisoned
        self.tried: list[int] = []

    def forward(self, plan: StepPlan) -> StepLogits:
        self.tried.append(plan.num_computed_tokens)
        names = [item.sequence.request.request_id for item in plan.scheduled]
        if plan.num_computed_tokens > self.num_tokens or self.poisoned in names:
            raise torch.OutOfMemoryError("CUDA out of memory (simulated)")
        return super().forward(plan)


def small_engine(
    *, num_tokens: int = 10**6, poisoned: str = "", **settings: object
) -> tuple[EngineUnderTest, SmallRunner]:
    under_test = make_engine(max_model_len=MAX_MODEL_LEN, **settings)  # type: ignore[arg-type]
    runner = SmallRunner(4, under_test.clock, num_tokens=num_tokens, poisoned=poisoned)
    under_test.runner = under_test.sampler.runner = under_test.engine._runner = runner
    return under_test, runner


@pytest.mark.parametrize("policy", ["continuous", "static", "naive", "dynamic"])
@pytest.mark.parametrize("num_tokens", [1, 3, 8, 15])
@pytest.mark.parametrize("chunked_prefill", [True, False])
def test_with_memory_for_fewer_tokens_than_the_budget_everyone_gets_the_same_tokens(
    policy: str, num_tokens: int, chunked_prefill: bool
):
    budget = 32 if chunked_prefill else MAX_MODEL_LEN
    under_test, runner = small_engine(
        num_tokens=num_tokens, policy=policy, chunked_prefill=chunked_prefill, max_num_batched_tokens=budget
    )
    requests = [make_request(f"r{index}", 3 + 5 * index, 2 + index) for index in range(4)]
    for request in requests:
        under_test.engine.add(request)
    under_test.run()
    for request in requests:
        assert under_test.tokens(request.request_id) == tokens_alone(request, max_model_len=MAX_MODEL_LEN)
        assert under_test.finish_reason(request.request_id) == "length"
    counters = under_test.engine.counters
    assert counters.num_out_of_memory == sum(tried > num_tokens for tried in runner.tried) > 0
    assert counters.num_free_blocks == counters.num_blocks


def test_who_cannot_be_computed_even_alone_fails_and_no_other_does():
    under_test, _ = small_engine(poisoned="poisoned")
    for name in ("a", "poisoned", "b"):
        under_test.engine.add(make_request(name, 4, 3))
    under_test.run()
    [output] = under_test.outputs["poisoned"]
    assert output.finish_reason == "error"
    assert "OutOfMemoryError" in str(output.error)
    for name in ("a", "b"):
        assert under_test.finish_reason(name) == "length"
    assert under_test.engine.counters.num_free_blocks == under_test.engine.counters.num_blocks


def test_the_next_steps_stay_below_what_failed_and_rise_again_once_they_do_not_touch_it():
    under_test, runner = small_engine(num_tokens=8, max_num_batched_tokens=32)
    under_test.engine.add(make_request("a", 16, 3))
    under_test.step()
    under_test.step()
    assert runner.tried == [16, 8, 8]  # tried whole once, never again
    runner.num_tokens = 10**6
    under_test.engine.add(make_request("long", 4, NUM_FINE_STEPS_TO_RISE))
    under_test.run()
    under_test.engine.add(make_request("b", 32, 1))
    under_test.step()
    assert runner.tried[-1] == 32


def test_any_other_failure_costs_its_step_and_is_not_tried_again():
    under_test = make_engine()
    under_test.runner.fail_on_step = 1
    under_test.engine.add(make_request("a"))
    under_test.run()
    assert under_test.finish_reason("a") == "error"
    assert len(under_test.runner.plans) == 1


def test_the_allocators_errors_are_recognised_and_no_others():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**60)
    assert is_out_of_memory(refused.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_a_draft_that_is_stripped_leaves_nothing_in_the_cache_of_the_draft():
    sequence = Sequence(make_request("a", 5, 9), arrived_at=0.0)
    sequence.num_draft_computed_tokens = 8
    cut(StepPlan([ScheduledSequence(sequence, 5, 4, samples=True, draft_token_ids=[1, 2, 3])]), 1)
    assert sequence.num_draft_computed_tokens == 5, "what stands behind it was computed from drafts"
