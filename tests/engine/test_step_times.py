"""The least that a request can take, from the steps that were measured: closed-form answers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from enginebay.engine.step_times import NUM_SAMPLES_TO_TRUST, STALE_AFTER_S, StepTimes

NOW = 100.0


def measured(*steps: tuple[int, float], num_samples: int = NUM_SAMPLES_TO_TRUST) -> StepTimes:
    """steps: (num_tokens, step_s)"""
    times = StepTimes()
    for num_tokens, step_s in steps:
        for _ in range(num_samples):
            times.note(step_s, num_tokens=num_tokens, most_output_tokens=1, now=NOW)
    return times


def least_s(times: StepTimes, num_prompt_tokens: int, num_output_tokens: int) -> float:
    return times.least(NOW).request_s(
        num_uncomputed_tokens=num_prompt_tokens, num_output_tokens=num_output_tokens, most_step_tokens=512
    )


def test_nothing_measured_bounds_nothing():
    assert least_s(StepTimes(), 10_000, 10_000) == 0.0
    assert least_s(measured((1, 2.0), num_samples=NUM_SAMPLES_TO_TRUST - 1), 1, 100) == 0.0


def test_a_prompt_takes_its_steps_and_every_token_but_the_first_one_more():
    times = measured((512, 3.0), (1, 0.5))
    assert least_s(times, 1024, 1) == 6.0
    assert least_s(times, 1024, 11) == 6.0 + 10 * 0.5
    assert least_s(times, 1, 1) == 0.5
    assert least_s(times, 0, 0) == 0.0


def test_a_larger_step_takes_no_less_and_no_more_for_each_token():
    assert measured((8, 2.0)).least(NOW).step_s(100) == 2.0
    assert measured((8, 2.0)).least(NOW).step_s(1) == 2.0 / 8
    assert measured((512, 4.0), (8, 2.0)).least(NOW).step_s(256) == 2.0


def test_a_step_that_gave_a_request_several_tokens_shortens_every_output():
    times = measured((1, 1.0))
    times.note(1.0, num_tokens=1, most_output_tokens=4, now=NOW)
    assert least_s(times, 1, 9) == 1.0 + 2.0


def test_no_number_of_slow_steps_hides_a_fast_one_until_it_is_forgotten():
    times = measured((1, 1.0))
    times.note(0.4, num_tokens=1, most_output_tokens=1, now=NOW)
    assert times.least(NOW).step_s(1) == 0.4
    for second in range(int(STALE_AFTER_S / 2)):
        for _ in range(100):
            times.note(10.0, num_tokens=1, most_output_tokens=1, now=NOW + second)
        assert times.least(NOW + second).step_s(1) == 0.4
    for second in range(int(STALE_AFTER_S / 2), int(STALE_AFTER_S) + 5):
        times.note(10.0, num_tokens=1, most_output_tokens=1, now=NOW + second)
    assert times.least(NOW + STALE_AFTER_S + 5).step_s(1) == 10.0


def test_steps_that_are_rare_are_trusted_when_there_were_enough_of_them():
    times, now = StepTimes(), NOW
    for _ in range(NUM_SAMPLES_TO_TRUST):
        assert times.least(now).step_s(512) == 0.0
        now += STALE_AFTER_S * 0.4
        times.note(3.0, num_tokens=512, most_output_tokens=1, now=now)
    assert times.least(now).step_s(512) == 3.0


def test_what_was_not_measured_for_a_while_is_forgotten_so_that_nobody_is_refused_by_it_for_ever():
    times = measured((1, 5.0))
    assert times.least(NOW + STALE_AFTER_S).step_s(1) == 5.0
    assert times.least(NOW + STALE_AFTER_S + 1).step_s(1) == 0.0
    later = NOW + STALE_AFTER_S + 2
    for _ in range(NUM_SAMPLES_TO_TRUST):
        assert times.least(later).step_s(1) == 0.0
        times.note(7.0, num_tokens=1, most_output_tokens=1, now=later)
    assert times.least(later).step_s(1) == 7.0


@given(st.lists(st.integers(1, 2048), min_size=1, max_size=60), st.integers(1, 2048))
def test_a_model_with_a_fixed_cost_and_one_for_each_token_is_never_thought_slower_than_it_is(
    sizes: list[int], num_tokens: int
):
    def true_s(num_tokens: int) -> float:
        return 0.01 + 0.001 * num_tokens

    times = measured(*((size, true_s(size)) for size in sizes))
    assert times.least(NOW).step_s(num_tokens) <= true_s(num_tokens) + 1e-12
