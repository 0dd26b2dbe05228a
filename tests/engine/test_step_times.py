"""The least that a request can take, from the steps that were measured: closed-form answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebay.engine.step_times import NUM_SAMPLES_TO_TRUST, STALE_AFTER_S, StepSize, StepTimes

NOW = 100.0


def prompt(num_tokens: int) -> StepSize:
    return StepSize.of_chunk(0, num_tokens)


def decode(context: int) -> StepSize:
    return StepSize.of_chunk(context - 1, 1)


ONE = prompt(1)


def measured(*steps: tuple[StepSize, float], num_samples: int = NUM_SAMPLES_TO_TRUST) -> StepTimes:
    """steps: (size, step_s)"""
    times = StepTimes()
    for size, step_s in steps:
        for _ in range(num_samples):
            times.note(step_s, size, most_output_tokens=1, now=NOW)
    return times


def least_s(times: StepTimes, num_prompt_tokens: int, num_output_tokens: int, *, num_cached_tokens: int = 0) -> float:
    return times.least(NOW).request_s(
        num_computed_tokens=num_cached_tokens,
        num_tokens=num_prompt_tokens,
        num_output_tokens=num_output_tokens,
        most_step_tokens=512,
    )


def test_the_size_of_a_chunk_counts_every_token_with_what_it_looks_at():
    assert prompt(4) == StepSize(num_tokens=4, num_pairs=1 + 2 + 3 + 4, num_keys=4)
    assert StepSize.of_chunk(10, 2) == StepSize(2, 11 + 12, 12)
    assert decode(100) == StepSize(1, 100, 100)


def test_nothing_measured_bounds_nothing():
    assert least_s(StepTimes(), 10_000, 10_000) == 0.0
    assert least_s(measured((ONE, 2.0), num_samples=NUM_SAMPLES_TO_TRUST - 1), 1, 100) == 0.0


def test_a_prompt_takes_its_steps_and_every_token_but_the_first_one_more():
    times = measured((prompt(512), 3.0), (ONE, 0.5))
    assert least_s(times, 1024, 1) == 6.0
    assert least_s(times, 1024, 11) == 6.0 + 10 * 0.5
    assert least_s(times, 1, 1) == 0.5
    assert least_s(times, 0, 0) == 0.0


def test_a_larger_step_takes_no_less_and_a_smaller_one_its_share():
    assert measured((prompt(8), 2.0)).least(NOW).step_s(prompt(100)) == 2.0
    assert measured((StepSize(8, 8, 8), 2.0)).least(NOW).step_s(ONE) == 2.0 / 8
    assert measured((prompt(512), 4.0), (prompt(8), 2.0)).least(NOW).step_s(prompt(256)) == 2.0


# ---------------------------------------------------------------- the context


def test_a_long_context_is_held_to_take_what_long_contexts_took():
    times = measured((decode(1), 1.0), (decode(1024), 3.0), (decode(4096), 9.0))
    least = times.least(NOW)
    assert [least.step_s(decode(context)) for context in (1, 1024, 4096, 9000)] == [1.0, 3.0, 9.0, 9.0]
    assert least_s(times, 4096, 11, num_cached_tokens=4095) == 11 * 9.0
    assert least_s(times, 1, 11) == 11 * 1.0


def test_a_short_context_is_not_held_to_take_what_a_long_one_took():
    """Else a server of long documents would refuse the short questions between them, which it could answer."""
    times = measured((decode(4096), 8.0))
    assert times.least(NOW).step_s(decode(64)) == 8.0 * 64 / 4096
    assert least_s(times, 64, 11, num_cached_tokens=63) < 11 * 0.2


def test_a_prompt_is_not_held_to_take_its_share_of_a_longer_one_which_looked_at_more_for_each_token():
    def true_s(num_tokens: int) -> float:
        return float(prompt(num_tokens).num_pairs)

    least = measured((prompt(4096), true_s(4096))).least(NOW)
    assert least.step_s(prompt(1024)) <= true_s(1024) < true_s(4096) / 4


def test_a_chunk_behind_a_long_prefix_is_held_to_take_what_such_chunks_took():
    times = measured((prompt(256), 1.0), (StepSize.of_chunk(7936, 256), 5.0))
    assert least_s(times, 8192, 1, num_cached_tokens=7936) == 5.0
    assert least_s(times, 256, 1) == 1.0


def test_what_an_output_takes_grows_with_it():
    times = measured(*((decode(context), float(context)) for context in range(1, 2048)))
    exact = float(sum(range(101, 200)))
    assert 0.8 * exact <= least_s(times, 100, 100, num_cached_tokens=99) - 100.0 <= exact


# ---------------------------------------------------------------- what is believed, and how long


def test_a_step_that_gave_a_request_several_tokens_shortens_every_output():
    times = measured((ONE, 1.0))
    assert least_s(times, 1, 9) == 1.0 + 8.0
    times.note(1.0, ONE, most_output_tokens=4, now=NOW)
    assert least_s(times, 1, 9) == 1.0 + 2.0


def test_no_number_of_slow_steps_hides_a_fast_one_until_it_is_forgotten():
    times = measured((ONE, 1.0))
    times.note(0.4, ONE, most_output_tokens=1, now=NOW)
    assert times.least(NOW).step_s(ONE) == 0.4
    for second in range(int(STALE_AFTER_S / 2)):
        for _ in range(100):
            times.note(10.0, ONE, most_output_tokens=1, now=NOW + second)
        assert times.least(NOW + second).step_s(ONE) == 0.4
    for second in range(int(STALE_AFTER_S / 2), int(STALE_AFTER_S) + 5):
        times.note(10.0, ONE, most_output_tokens=1, now=NOW + second)
    assert times.least(NOW + STALE_AFTER_S + 5).step_s(ONE) == 10.0


def test_steps_that_are_rare_are_trusted_when_there_were_enough_of_them():
    times, now = StepTimes(), NOW
    for _ in range(NUM_SAMPLES_TO_TRUST):
        assert times.least(now).step_s(prompt(512)) == 0.0
        now += STALE_AFTER_S * 0.4
        times.note(3.0, prompt(512), most_output_tokens=1, now=now)
    assert times.least(now).step_s(prompt(512)) == 3.0


def test_what_was_not_measured_for_a_while_is_forgotten_so_that_nobody_is_refused_by_it_for_ever():
    times = measured((ONE, 5.0))
    assert times.least(NOW + STALE_AFTER_S).step_s(ONE) == 5.0
    assert times.least(NOW + STALE_AFTER_S + 1).step_s(ONE) == 0.0
    later = NOW + STALE_AFTER_S + 2
    for _ in range(NUM_SAMPLES_TO_TRUST):
        assert times.least(later).step_s(ONE) == 0.0
        times.note(7.0, ONE, most_output_tokens=1, now=later)
    assert times.least(later).step_s(ONE) == 7.0


def test_what_is_known_is_put_together_once_and_not_for_every_step():
    times = measured((ONE, 1.0))
    least = times.least(NOW)
    times.note(1.5, ONE, most_output_tokens=1, now=NOW + 1)
    assert times.least(NOW + 1) is least
    times.note(0.5, ONE, most_output_tokens=1, now=NOW + 2)
    assert times.least(NOW + 2).step_s(ONE) == 0.5


def test_what_a_request_takes_is_added_up_once_for_all_who_ask_the_same(monkeypatch: pytest.MonkeyPatch):
    """Hundreds may wait, and all of them are held against it before every step."""
    times = measured((ONE, 1.0), (prompt(512), 3.0))
    told = least_s(times, 700, 100)
    monkeypatch.setattr(type(times.least(NOW)), "step_s", None)
    assert least_s(times, 700, 100) == told
    with pytest.raises(TypeError):
        least_s(times, 700, 101)


chunks = st.builds(StepSize.of_chunk, st.integers(0, 8192), st.integers(1, 2048))


@pytest.mark.parametrize(
    ("fixed_s", "token_s", "pair_s", "key_s"),
    [(10.0, 1.0, 0.0, 0.0), (1.0, 0.1, 0.01, 0.001), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0)],
)
@given(
    steps=st.lists(st.lists(chunks, min_size=1, max_size=8), min_size=1, max_size=20),
    num_cached_tokens=st.integers(0, 8000),
    num_uncomputed_tokens=st.integers(1, 2000),
    num_output_tokens=st.integers(1, 300),
)
def test_no_request_is_thought_slower_than_it_is(
    fixed_s: float,
    token_s: float,
    pair_s: float,
    key_s: float,
    steps: list[list[StepSize]],
    num_cached_tokens: int,
    num_uncomputed_tokens: int,
    num_output_tokens: int,
):
    """Whatever was measured, of whatever many requests in a step."""

    def true_s(size: StepSize) -> float:
        return fixed_s + token_s * size.num_tokens + pair_s * size.num_pairs + key_s * size.num_keys

    sizes = [StepSize(*map(sum, zip(*step, strict=True))) for step in steps]
    times = measured(*((size, true_s(size)) for size in sizes))
    num_tokens = num_cached_tokens + num_uncomputed_tokens
    alone = [
        StepSize.of_chunk(start, min(512, num_tokens - start)) for start in range(num_cached_tokens, num_tokens, 512)
    ] + [StepSize.of_chunk(num_tokens + index, 1) for index in range(num_output_tokens - 1)]
    least = least_s(times, num_tokens, num_output_tokens, num_cached_tokens=num_cached_tokens)
    assert least <= sum(map(true_s, alone)) * (1 + 1e-9)
