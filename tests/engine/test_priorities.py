"""Who overtakes whom under load, and how long anyone can be kept waiting."""

from __future__ import annotations

import pytest
from engine_fakes import EngineUnderTest, make_engine, make_request
from hypothesis import example, given, settings
from hypothesis import strategies as st

POLICIES = ["continuous", "dynamic", "naive", "static"]


def first_token_order(under_test: EngineUnderTest) -> list[str]:
    """Who was computed first, in the order of the steps and of each step."""
    seen: dict[str, None] = {}
    for plan in under_test.runner.plans:
        seen.update(dict.fromkeys(name for name, *_ in plan))
    return list(seen)


def first_step_of(under_test: EngineUnderTest) -> dict[str, int]:
    """Within a step order means nothing: who has only one token left to compute stands first in it."""
    plans = reversed(list(enumerate(under_test.runner.plans)))
    return {name: number for number, plan in plans for name, *_ in plan}


@pytest.mark.parametrize("policy", POLICIES)
def test_under_load_an_urgent_request_overtakes_everyone_who_waits(policy: str):
    under_test = make_engine(policy=policy, max_num_seqs=2, static_batch_timeout_s=0.0)
    for index in range(20):
        under_test.engine.add(make_request(f"early {index}", 4, 6))
    under_test.step()
    num_begun = len(first_token_order(under_test))
    under_test.engine.add(make_request("urgent", 4, 6, priority=-5))
    under_test.run()
    assert first_token_order(under_test)[num_begun] == "urgent"


@pytest.mark.parametrize("policy", POLICIES)
def test_nobody_who_runs_is_put_back_for_someone_more_urgent_while_there_are_blocks(policy: str):
    under_test = make_engine(policy=policy, max_num_seqs=2, static_batch_timeout_s=0.0)
    for name in ("a", "b"):
        under_test.engine.add(make_request(name, 4, 8))
    under_test.step()
    for index in range(5):
        under_test.engine.add(make_request(f"urgent {index}", 4, 8, priority=-1))
    under_test.run()
    assert under_test.engine.counters.num_preemptions == 0
    assert all(under_test.finish_reason(name) == "length" for name in under_test.outputs)


@settings(max_examples=60, deadline=None)
@given(
    arrivals=st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 3)), min_size=1, max_size=25),
    policy=st.sampled_from(["continuous", "dynamic", "naive"]),
)
@example(
    arrivals=[(0, 0)] * 3 + [(0, 3)] * 2 + [(0, 0)] * 2 + [(-1, 0)] + [(0, 0)] * 4 + [(-1, 0)], policy="continuous"
)
def test_within_one_priority_nobody_is_overtaken(arrivals: list[tuple[int, int]], policy: str):
    under_test = make_engine(policy=policy, max_num_seqs=3)
    for index, (priority, num_steps) in enumerate(arrivals):
        under_test.engine.add(make_request(f"{priority} {index}", 4 + index % 5, 3, priority=priority))
        for _ in range(num_steps):
            under_test.step()
    under_test.run()
    begun = first_step_of(under_test)
    for level in (-1, 0, 1):
        steps = [begun[f"{priority} {index}"] for index, (priority, _) in enumerate(arrivals) if priority == level]
        assert steps == sorted(steps)
    assert len(begun) == len(arrivals)


def test_the_least_urgent_waits_as_long_as_others_fill_the_engine_and_not_one_step_longer():
    under_test = make_engine(max_num_seqs=1)
    under_test.engine.add(make_request("running", 4, 2))
    under_test.step()
    under_test.engine.add(make_request("patient", 4, 2, priority=9))
    for index in range(50):
        under_test.engine.add(make_request(f"urgent {index}", 4, 2))
        under_test.step()
        under_test.step()
    assert "patient" not in first_token_order(under_test)
    assert under_test.engine.counters.num_waiting >= 1, "whoever waits is seen to wait"
    under_test.run()
    assert first_token_order(under_test)[-1] == "patient"
    assert under_test.outputs["patient"][0].queue_s == pytest.approx(101)


def test_one_who_would_starve_and_has_a_deadline_is_told():
    under_test = make_engine(max_num_seqs=1)
    under_test.engine.add(make_request("running", 4, 2))
    under_test.engine.add(make_request("patient", 4, 2, priority=9, deadline_at=under_test.clock.instant + 30))
    for index in range(50):
        under_test.engine.add(make_request(f"urgent {index}", 4, 2))
        under_test.step()
    assert under_test.outputs["patient"][-1].error_kind == "deadline"
