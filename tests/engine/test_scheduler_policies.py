"""Who joins when, what is padded, and what the counters say of it: closed-form answers on a clock that only ticks."""

from __future__ import annotations

import pytest
from engine_fakes import make_engine, make_request, tokens_alone

from enginebay.engine.policies import build_policy
from enginebay.engine.settings import EngineConfig
from enginebay.errors import ConfigError

# ---------------------------------------------------------------- continuous


def test_a_request_joins_the_step_after_it_came_and_leaves_when_it_ends():
    under_test = make_engine()
    under_test.engine.add(make_request("long", 4, 6))
    under_test.step()
    under_test.engine.add(make_request("short", 3, 2))
    under_test.run()
    assert under_test.runner.plans == [
        [("long", 0, 4, 0, False)],
        [("long", 4, 1, 0, False), ("short", 0, 3, 0, False)],
        [("long", 5, 1, 0, False), ("short", 3, 1, 0, False)],
        [("long", 6, 1, 0, False)],
        [("long", 7, 1, 0, False)],
        [("long", 8, 1, 0, False)],
    ]


def test_decoding_goes_first_and_prompts_share_what_is_left_in_order_of_arrival():
    under_test = make_engine(max_num_batched_tokens=8)
    under_test.engine.add(make_request("a", 2, 4))
    under_test.step()
    under_test.engine.add(make_request("b", 10, 1))
    under_test.engine.add(make_request("c", 10, 1))
    under_test.run()
    assert under_test.runner.plans[1:] == [
        [("a", 2, 1, 0, False), ("b", 0, 7, 0, False)],
        [("a", 3, 1, 0, False), ("b", 7, 3, 0, False), ("c", 0, 4, 0, False)],
        [("a", 4, 1, 0, False), ("c", 4, 6, 0, False)],
    ]


def test_nobody_is_given_a_slot_to_wait_in_it_for_tokens():
    under_test = make_engine(max_num_batched_tokens=8)
    for name in ("a", "b", "c"):
        under_test.engine.add(make_request(name, 8, 1))
    under_test.step()
    assert (under_test.engine.counters.num_admitted, under_test.engine.counters.num_waiting) == (1, 2)
    under_test.run()
    assert under_test.engine.counters.batch_wait_s == 0 + 1 + 2


def test_without_chunked_prefill_a_prompt_waits_until_it_fits_into_one_step():
    under_test = make_engine(max_num_batched_tokens=12, max_model_len=12, chunked_prefill=False)
    for name in ("a", "b"):
        under_test.engine.add(make_request(name, 8, 2))
    under_test.run()
    assert under_test.runner.plans == [
        [("a", 0, 8, 0, False)],
        [("a", 8, 1, 0, False), ("b", 0, 8, 0, False)],
        [("b", 8, 1, 0, False)],
    ]


def test_a_smaller_priority_goes_before_earlier_arrivals():
    under_test = make_engine(max_num_seqs=1)
    for name, priority in (("first", 0), ("later", 0), ("urgent", -1)):
        under_test.engine.add(make_request(name, 2, 1, priority=priority))
    under_test.run()
    assert [step[0][0] for step in under_test.runner.plans] == ["urgent", "first", "later"]


def test_an_urgent_prompt_takes_the_step_from_a_long_one_that_came_first():
    under_test = make_engine(max_num_batched_tokens=8)
    under_test.engine.add(make_request("long", 24, 1))
    under_test.step()
    under_test.engine.add(make_request("urgent", 8, 1, priority=-1))
    under_test.step()
    assert under_test.runner.plans[1] == [("urgent", 0, 8, 0, False)]


def test_when_blocks_run_out_the_last_to_come_gives_way_and_is_computed_again_before_later_ones():
    under_test = make_engine(num_blocks=6, block_size=2, max_model_len=12)
    requests = [make_request(name, 3, 6) for name in ("a", "b", "c")]
    for request in requests:
        under_test.engine.add(request)
    preempted: list[str] = []
    while under_test.engine.has_work:
        waiting_before = {s.request.request_id for s in under_test.engine.scheduler.waiting}
        under_test.step()
        waiting = [s.request.request_id for s in under_test.engine.scheduler.waiting]
        preempted += [name for name in waiting if name not in waiting_before]
        assert waiting == sorted(waiting)
    assert preempted[0] == "c"
    assert "a" not in preempted
    counters = under_test.engine.counters
    assert counters.num_preemptions == len(preempted) >= 2
    assert counters.num_admitted == 3
    assert counters.num_prompt_tokens == 9
    for request in requests:
        assert under_test.tokens(request.request_id) == tokens_alone(request, max_model_len=12)
    assert under_test.outputs["c"][-1].num_preemptions >= 1


def test_a_preempted_request_of_low_priority_is_the_victim_even_if_it_came_first():
    under_test = make_engine(num_blocks=4, block_size=2, max_model_len=8)
    under_test.engine.add(make_request("background", 3, 5, priority=1))
    under_test.step()
    under_test.engine.add(make_request("normal", 3, 5))
    under_test.run()
    assert under_test.outputs["background"][-1].num_preemptions >= 1
    assert under_test.outputs["normal"][-1].num_preemptions == 0


# ---------------------------------------------------------------- naive


def test_naive_computes_one_request_at_a_time_whatever_max_num_seqs_says():
    under_test = make_engine(policy="naive", max_num_seqs=8)
    for name in ("a", "b", "c"):
        under_test.engine.add(make_request(name, 4, 3))
    under_test.run()
    assert [[name for name, *_ in step] for step in under_test.runner.plans] == [["a"]] * 3 + [["b"]] * 3 + [["c"]] * 3
    counters = under_test.engine.counters
    assert (counters.num_slot_steps, counters.num_idle_slot_steps) == (9, 0)
    assert counters.batch_wait_s == 0 + 3 + 6  # a second a step: b waits for a, c for both


# ---------------------------------------------------------------- static


def static_engine(**settings: object):
    return make_engine(policy="static", **{"static_batch_timeout_s": 5.0, "max_num_seqs": 3, **settings})


def test_static_waits_for_a_full_batch_and_starts_at_once_when_it_is_full():
    under_test = static_engine()
    under_test.engine.add(make_request("a", 2, 1))
    under_test.clock.instant += 1
    under_test.engine.add(make_request("b", 2, 1))
    under_test.clock.instant += 1
    assert under_test.step() == []
    assert under_test.runner.plans == []
    under_test.engine.add(make_request("c", 2, 1))
    assert under_test.engine.next_step_at() == under_test.clock.now()
    under_test.run()
    assert [[name for name, *_ in step] for step in under_test.runner.plans] == [["a", "b", "c"]]
    assert under_test.engine.counters.batch_wait_s == 2 + 1 + 0


def test_static_starts_a_smaller_batch_when_the_oldest_has_waited_for_the_timeout():
    under_test = static_engine()
    under_test.engine.add(make_request("a", 2, 2))
    assert under_test.engine.next_step_at() == 105.0
    under_test.clock.instant = 103.0
    under_test.engine.add(make_request("b", 2, 2))
    assert under_test.engine.next_step_at() == 105.0
    under_test.clock.instant = 104.9
    assert under_test.step() == []
    under_test.clock.instant = 105.0
    under_test.step()
    counters = under_test.engine.counters
    assert (counters.num_running, counters.batch_size) == (2, 2)
    assert counters.batch_wait_s == pytest.approx(5 + 2)
    assert (counters.num_slot_steps, counters.num_idle_slot_steps) == (3, 1)


def test_static_pads_prompts_to_the_longest_and_computes_ended_members_until_the_longest_has_ended():
    under_test = static_engine()
    for name, num_prompt_tokens, max_tokens in (("a", 2, 1), ("b", 5, 3), ("c", 3, 4)):
        under_test.engine.add(make_request(name, num_prompt_tokens, max_tokens))
    under_test.engine.add(make_request("next", 2, 1))
    for _ in range(4):
        under_test.step()
    assert under_test.runner.plans == [
        [("a", 0, 2, 3, False), ("b", 0, 5, 0, False), ("c", 0, 3, 2, False)],
        [("a", 1, 1, 0, True), ("b", 5, 1, 0, False), ("c", 3, 1, 0, False)],
        [("a", 1, 1, 0, True), ("b", 6, 1, 0, False), ("c", 4, 1, 0, False)],
        [("a", 1, 1, 0, True), ("b", 6, 1, 0, True), ("c", 5, 1, 0, False)],
    ]
    counters = under_test.engine.counters
    assert counters.num_computed_tokens == 15 + 3 * 3
    assert counters.num_padding_tokens == 3 + 2
    assert (counters.num_slot_steps, counters.num_idle_slot_steps) == (12, 4)
    assert (counters.num_running, counters.num_waiting) == (0, 1)
    assert counters.num_free_blocks == counters.num_blocks


def test_static_streams_tokens_as_they_are_made():
    under_test = static_engine()
    for name, max_tokens in (("a", 1), ("b", 2), ("c", 3)):
        under_test.engine.add(make_request(name, 2, max_tokens))
    assert [sorted(output.request_id for output in under_test.step()) for _ in range(3)] == [
        ["a", "b", "c"],
        ["b", "c"],
        ["c"],
    ]


def test_a_padded_batch_above_the_token_budget_is_computed_in_slices_of_columns_that_end_together():
    under_test = static_engine(max_num_batched_tokens=9)
    for name, num_prompt_tokens in (("a", 2), ("b", 7), ("c", 4)):
        under_test.engine.add(make_request(name, num_prompt_tokens, 1))
    under_test.run()
    assert under_test.runner.plans == [
        [("a", 0, 0, 3, False), ("b", 0, 3, 0, False), ("c", 0, 0, 3, False)],
        [("a", 0, 1, 2, False), ("b", 3, 3, 0, False), ("c", 0, 3, 0, False)],
        [("a", 1, 1, 0, False), ("b", 6, 1, 0, False), ("c", 3, 1, 0, False)],
    ]
    counters = under_test.engine.counters
    assert counters.num_computed_tokens == 3 * 7
    assert counters.num_padding_tokens == 5 + 3


def test_static_takes_only_as_many_as_have_room_for_their_whole_life_and_never_preempts():
    under_test = static_engine(num_blocks=8, block_size=2, max_model_len=16)
    for name in ("a", "b", "c"):
        under_test.engine.add(make_request(name, 4, 5))  # 8 positions are computed: four blocks each
    under_test.run()
    assert {name for name, *_ in under_test.runner.plans[0]} == {"a", "b"}
    assert under_test.engine.counters.num_preemptions == 0


def test_a_cancelled_member_of_a_static_batch_frees_its_blocks_at_once_and_nobody_takes_its_slot():
    under_test = static_engine()
    for name in ("a", "b", "c", "next"):
        under_test.engine.add(make_request(name, 4, 3))
    under_test.step()
    num_free = under_test.engine.counters.num_free_blocks
    under_test.engine.cancel("b")
    assert under_test.engine.counters.num_free_blocks == num_free + 2
    under_test.step()
    assert [name for name, *_ in under_test.runner.plans[-1]] == ["a", "c"]


# ---------------------------------------------------------------- settings


def config(**settings: object) -> EngineConfig:
    return EngineConfig(model_dir="", **settings)  # type: ignore[arg-type]


def test_settings_under_which_a_request_could_get_stuck_are_refused():
    with pytest.raises(ConfigError, match="at least max_num_seqs"):
        build_policy(config(max_num_seqs=64, max_num_batched_tokens=32), max_model_len=128)
    build_policy(config(policy="naive", max_num_seqs=64, max_num_batched_tokens=32), max_model_len=128)  # one slot
    with pytest.raises(ConfigError, match="chunked_prefill: true"):
        build_policy(config(chunked_prefill=False, max_num_batched_tokens=64), max_model_len=128)
    with pytest.raises(ConfigError, match="naive, static, continuous, dynamic"):
        build_policy(config(policy="fastest"), max_model_len=128)
