"""How many tokens are drafted follows how drafts went and what they cost: scripts of outcomes."""

from __future__ import annotations

import pytest

from enginebay.engine.speculation.draft_length import FIRST_PAUSE, LONGEST_PAUSE, DraftCost, DraftLength

CHEAP, DEAR = 0.1, 0.8


def after(outcomes: list[tuple[int, int]], *, cost_ratio: float = CHEAP, max_num_tokens: int = 8) -> DraftLength:
    length = DraftLength(max_num_tokens=max_num_tokens)
    length.next(cost_ratio)
    for num_drafted, num_accepted in outcomes:
        length.note(num_drafted, num_accepted)
    return length


def given_up() -> DraftLength:
    length = after([])
    while num_tokens := length.next(CHEAP):
        length.note(num_tokens, 0)
    return length


def num_steps_until_next(length: DraftLength) -> int:
    return next(step for step in range(10_000) if length.next(CHEAP))


def test_it_begins_with_a_short_draft() -> None:
    assert 1 < after([]).next(CHEAP) < 8


def test_drafts_that_are_accepted_grow_to_the_most() -> None:
    assert after([(4, 4)] * 10).next(CHEAP) == 8


def test_drafts_that_are_half_accepted_stay_short() -> None:
    assert after([(1, 1), (1, 0)] * 20).next(CHEAP) in (1, 2)


@pytest.mark.parametrize("cost_ratio", [0.0, 0.02, 0.1, 0.3, 0.5])
def test_the_length_is_the_one_with_the_most_tokens_for_the_time(cost_ratio: float) -> None:
    length = after([(3, 2)] * 6, cost_ratio=cost_ratio)
    rate = length.acceptance_rate

    def tokens_for_the_time(num_tokens: int) -> float:
        return sum(rate**index for index in range(num_tokens + 1)) / (1 + num_tokens * cost_ratio)

    assert length.next(cost_ratio) == max(range(9), key=tokens_for_the_time)


def test_a_draft_that_costs_as_much_as_a_step_is_not_worth_it() -> None:
    assert after([(4, 4)] * 50, cost_ratio=1.0).next(1.0) == 1  # a trial
    length = after([(4, 4)] * 50 + [(1, 0)], cost_ratio=1.0)
    assert length.next(1.0) == 0


def test_the_same_rate_is_worth_a_draft_in_one_step_and_none_in_another() -> None:
    length = after([(1, 1), (1, 0)] * 20)
    assert length.next(CHEAP) > 0
    length.note(1, 0)
    assert length.next(DEAR) == 1  # what it is worth there is tried once
    length.note(1, 0)
    assert length.next(DEAR) == 0
    assert length.next(CHEAP) > 0


def test_nothing_is_drafted_for_a_while_after_failures_and_then_one_token() -> None:
    length = given_up()
    assert num_steps_until_next(length) == FIRST_PAUSE - 1
    assert length.next(CHEAP) == 1


def test_each_trial_that_fails_doubles_the_pause_up_to_the_longest() -> None:
    length = given_up()
    pauses: list[int] = []
    for _ in range(7):
        pauses.append(num_steps_until_next(length))
        length.note(1, 0)
    assert pauses[:3] == [FIRST_PAUSE - 1, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE]
    assert pauses[-1] == LONGEST_PAUSE


def test_trials_that_are_accepted_follow_one_another_until_drafts_are_worth_it_again() -> None:
    length = after([], cost_ratio=DEAR)
    lengths: list[int] = []
    while not lengths or lengths[-1] < 3:
        lengths.append(length.next(DEAR))
        length.note(lengths[-1], lengths[-1])
    assert lengths[0] == 1
    assert lengths == sorted(lengths)


def test_a_trial_stays_due_while_nothing_can_be_proposed() -> None:
    length = given_up()
    num_steps_until_next(length)
    assert [length.next(CHEAP) for _ in range(5)] == [1] * 5


def test_a_draft_costs_more_of_a_step_the_more_requests_share_it() -> None:
    cost = DraftCost(0.1, proposal_ratio=0.25)
    assert cost.ratio(1) == pytest.approx(0.25 + 0.1)
    assert cost.ratio(11) == pytest.approx(0.25 + 1.1 / 2)
    assert 0.25 + 0.98 < cost.ratio(1000) < 0.25 + 1
