"""How the batch follows the queue: rules shown loads on a clock that only ticks, then the policy in an engine."""

from __future__ import annotations

from itertools import pairwise

import pytest
from engine_fakes import make_engine, make_request
from hypothesis import given
from hypothesis import strategies as st

from enginebay.engine.policies import build_policy
from enginebay.engine.policies.batch_rules import (
    RULES,
    SHRINK_AFTER_S,
    SMALLEST_BATCH,
    BatchBounds,
    BatchSize,
    Load,
    follow_queue,
    lesson,
)
from enginebay.engine.policies.dynamic import DynamicPolicy
from enginebay.engine.settings import EngineConfig
from enginebay.errors import ConfigError

BOUNDS = BatchBounds(most=BatchSize(256, 2048), fewest_tokens=256)


def load(num_waiting: int, num_running: int, *, num_slots: int = 0, now: float = 100.0, since: float = 0.0) -> Load:
    size = BatchSize(num_slots, 8 * num_slots)
    return Load(num_waiting=num_waiting, num_running=num_running, now=now, size=size, since=since)


def policy(rule: str = "follow_queue", **settings: object) -> DynamicPolicy:
    config = EngineConfig(
        model_dir="",
        policy="dynamic",
        batch_rule=rule,
        **{"max_num_seqs": 256, "max_num_batched_tokens": 2048, **settings},
    )  # type: ignore[arg-type]
    built = build_policy(config, max_model_len=512)
    assert isinstance(built, DynamicPolicy)
    return built


# ---------------------------------------------------------------- the rules


@pytest.mark.parametrize(("num_waiting", "num_slots"), [(0, 32), (100, 32), (101, 256), (5000, 256)])
def test_the_lesson_takes_256_while_more_than_100_wait_and_else_32(num_waiting: int, num_slots: int):
    assert lesson(load(num_waiting, 7), BOUNDS) == BatchSize(num_slots, 2048)


@pytest.mark.parametrize(
    ("num_waiting", "num_running", "in_force", "num_slots"),
    [
        (1, 0, 0, 8),  # the first of all
        (8, 0, 0, 8),
        (9, 0, 0, 16),  # nobody waits for a slot
        (0, 8, 8, 8),
        (1, 8, 8, 16),
        (33, 8, 8, 64),
        (400, 8, 8, 256),  # at once
        (0, 9, 16, 16),  # half the slots would not do
        (0, 8, 16, 8),
        (4, 4, 16, 8),
        (0, 0, 8, 8),
    ],
)
def test_following_the_queue_doubles_and_halves(num_waiting: int, num_running: int, in_force: int, num_slots: int):
    chosen = follow_queue(load(num_waiting, num_running, num_slots=in_force), BOUNDS)
    assert chosen == BatchSize(num_slots, max(256, 8 * num_slots))


def test_a_size_that_has_not_stood_for_a_second_is_not_halved():
    young = load(0, 1, num_slots=64, now=10.0, since=10.0 - SHRINK_AFTER_S + 0.01)
    assert follow_queue(young, BOUNDS).num_slots == 64
    assert follow_queue(load(0, 1, num_slots=64, now=10.0, since=10.0 - SHRINK_AFTER_S), BOUNDS).num_slots == 32


@given(num_here=st.integers(0, 600), in_force=st.sampled_from([0, 8, 16, 32, 64, 128, 256]))
def test_following_the_queue_does_not_flap_under_a_load_that_stands(num_here: int, in_force: int):
    """Shown the same load again and again it moves in one direction only, then stays."""
    sizes = [in_force]
    for _ in range(10):
        num_running = min(num_here, sizes[-1])
        sizes.append(follow_queue(load(num_here - num_running, num_running, num_slots=sizes[-1]), BOUNDS).num_slots)
    moved = [after - before for before, after in pairwise(sizes[1:]) if after != before]
    assert all(step < 0 for step in moved) or all(step > 0 for step in moved)
    assert sizes[-1] == sizes[-2]
    assert sizes[-1] >= min(num_here, 256)


# ---------------------------------------------------------------- the policy


@given(
    rule=st.sampled_from(sorted(RULES)),
    loads=st.lists(st.tuples(st.integers(0, 500), st.integers(0, 300), st.floats(0, 3)), max_size=20),
    max_num_seqs=st.integers(1, 300),
    spare_tokens=st.integers(0, 3000),
)
def test_every_size_is_within_the_bounds_and_gives_every_slot_a_token(
    rule: str, loads: list[tuple[int, int, float]], max_num_seqs: int, spare_tokens: int
):
    budget = max_num_seqs + spare_tokens
    under_test = policy(rule, max_num_seqs=max_num_seqs, max_num_batched_tokens=budget)
    now = 0.0
    for num_waiting, num_running, passed_s in loads:
        now += passed_s
        under_test.resize(num_waiting=num_waiting, num_running=num_running, now=now)
        assert 1 <= under_test.num_slots <= max_num_seqs
        assert max_num_seqs <= under_test.max_num_batched_tokens <= budget


def test_without_chunked_prefill_a_step_always_holds_a_whole_context():
    under_test = policy(chunked_prefill=False, max_num_batched_tokens=1024)
    under_test.resize(num_waiting=1, num_running=0, now=0.0)
    assert (under_test.num_slots, under_test.max_num_batched_tokens) == (SMALLEST_BATCH, 512)


def test_a_batch_that_shrinks_evicts_nobody_and_admits_nobody_until_it_is_small():
    under_test = make_engine(policy="dynamic", max_num_seqs=32, max_num_batched_tokens=512, num_blocks=400, step_s=2.0)
    for index in range(30):
        under_test.engine.add(make_request(f"r{index}", 4, 6 if index < 5 else 30 if index < 12 else 2))
    under_test.step()
    assert under_test.engine.counters.num_slots == 32
    sizes = []
    while under_test.engine.has_work:
        under_test.step()
        counters = under_test.engine.counters
        sizes.append((counters.num_slots, counters.num_running))
    assert under_test.engine.counters.num_preemptions == 0
    assert (16, 12) in sizes
    assert sizes[-1] == (8, 0)
    assert all(after <= before for (before, _), (after, _) in pairwise(sizes))


@pytest.mark.parametrize("num_users", [1, 8, 9, 10, 13, 24, 32])
def test_users_who_come_back_as_soon_as_they_are_answered_all_run_all_the_time(num_users: int):
    """On steps of a second, so that every chance to shrink is there."""
    under_test = make_engine(policy="dynamic", max_num_seqs=32, max_num_batched_tokens=512, num_blocks=400)
    for index in range(num_users):
        under_test.engine.add(make_request(f"0 of {index}", 4, 3 + index % 5))
    for round_ in range(1, 40):
        for name in [output.request_id for output in under_test.step() if output.finish_reason]:
            user = name.split()[-1]
            under_test.engine.add(make_request(f"{round_} of {user}", 4, 3 + int(user) % 5))
        assert len(under_test.runner.plans[-1]) == num_users, "somebody waited while others were computed"
    counters = under_test.engine.counters
    assert counters.batch_wait_s == 0.0
    assert counters.num_slots == max(SMALLEST_BATCH, 2 ** (num_users - 1).bit_length())


def test_what_waits_beyond_the_most_slots_gets_the_next_that_is_free():
    under_test = make_engine(policy="dynamic", max_num_seqs=16, max_num_batched_tokens=512, num_blocks=400)
    for index in range(20):
        under_test.engine.add(make_request(f"r{index}", 4, 2))
    under_test.step()
    assert (under_test.engine.counters.num_running, under_test.engine.counters.num_waiting) == (16, 4)
    under_test.run()
    assert under_test.clock.instant == 100.0 + 4


def test_the_lessons_batch_shrinks_below_those_who_run_and_lets_them_end():
    under_test = make_engine(
        policy="dynamic", batch_rule="lesson", max_num_seqs=256, max_num_batched_tokens=2048, num_blocks=2000
    )
    for index in range(140):
        under_test.engine.add(make_request(f"r{index}", 4, 5))
    under_test.step()
    assert under_test.engine.counters.num_running == 140
    under_test.engine.add(make_request("late", 4, 2))
    under_test.step()
    counters = under_test.engine.counters
    assert (counters.num_slots, counters.num_running, counters.num_waiting) == (32, 140, 1)
    under_test.run()
    assert under_test.runner.plans[5] == [("late", 0, 4, 0, False)]
    counters = under_test.engine.counters
    assert counters.num_slot_steps - counters.num_idle_slot_steps == 140 * 5 + 2
    assert counters.num_slot_steps == 256 + 4 * 140 + 2 * 32


def test_an_unknown_rule_is_refused_by_name():
    with pytest.raises(ConfigError, match="one of follow_queue, lesson"):
        policy("fastest")
