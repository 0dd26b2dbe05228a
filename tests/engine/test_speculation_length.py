"""How many tokens are drafted follows how drafts went: scripts of outcomes."""

from __future__ import annotations

import pytest

from enginebay.engine.speculation.draft_length import FIRST_PAUSE, LONGEST_PAUSE, DraftLength


def after(outcomes: list[tuple[int, int]], *, cost_ratio: float = 0.1, max_num_tokens: int = 8) -> DraftLength:
    length = DraftLength(max_num_tokens=max_num_tokens, cost_ratio=cost_ratio)
    for num_drafted, num_accepted in outcomes:
        length.note(num_drafted, num_accepted)
    return length


def given_up() -> DraftLength:
    length = after([])
    while num_tokens := length.next():
        length.note(num_tokens, 0)
    return length


def num_steps_until_next(length: DraftLength) -> int:
    return next(step for step in range(10_000) if length.next())


def test_it_begins_with_a_short_draft() -> None:
    assert 1 < after([]).next() < 8


def test_drafts_that_are_accepted_grow_to_the_most() -> None:
    assert after([(4, 4)] * 10).next() == 8


def test_drafts_that_are_half_accepted_stay_short() -> None:
    assert after([(1, 1), (1, 0)] * 20).next() in (1, 2)


@pytest.mark.parametrize("cost_ratio", [0.02, 0.1, 0.3, 0.5])
def test_the_length_is_the_one_with_the_most_tokens_for_the_time(cost_ratio: float) -> None:
    length = after([(3, 2)] * 6, cost_ratio=cost_ratio)
    rate = length.acceptance_rate

    def tokens_for_the_time(num_tokens: int) -> float:
        return sum(rate**index for index in range(num_tokens + 1)) / (1 + num_tokens * cost_ratio)

    assert length.next() == max(range(9), key=tokens_for_the_time)


def test_a_draft_that_costs_as_much_as_a_step_is_not_worth_it() -> None:
    assert after([(4, 4)] * 50, cost_ratio=1.0).next() == 0


def test_nothing_is_drafted_for_a_while_after_failures_and_then_one_token() -> None:
    length = given_up()
    assert num_steps_until_next(length) == FIRST_PAUSE - 1
    assert length.next() == 1


def test_each_trial_that_fails_doubles_the_pause_up_to_the_longest() -> None:
    length = given_up()
    pauses: list[int] = []
    for _ in range(7):
        pauses.append(num_steps_until_next(length))
        length.note(1, 0)
    assert pauses[:3] == [FIRST_PAUSE - 1, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE


def test_a_trial_that_is_accepted_ends_the_pause() -> None:
    length = given_up()
    num_steps_until_next(length)
    length.note(1, 1)
    assert length.next() > 0


def test_a_trial_stays_due_while_nothing_can_be_proposed() -> None:
    length = given_up()
    num_steps_until_next(length)
    assert [length.next() for _ in range(5)] == [1] * 5
