"""The load that `bench --url` proposes fits into the time that there is, and tells something."""

from __future__ import annotations

import pytest

from enginebay.cli.bench.proposing import MAX_REQUESTS, SHAPES, propose
from enginebay.errors import ConfigError
from enginebay.loadtest.schedule import Speed
from enginebay.loadtest.validity.sample_size import CONFIDENCE
from enginebay.statistics.percentiles import num_values_needed


def speed(alone: float, *, scaling: float = 1.0) -> Speed:
    """scaling: tokens/s of eight users / those of one."""
    return Speed(start_s=0.0, alone_tokens_per_s=alone, together=(8, scaling * alone))


def test_two_slow_servers_get_a_verdict_within_five_minutes() -> None:
    proposal = propose([speed(26.0), speed(26.0)], minutes=None)
    assert proposal.seconds <= 300
    assert proposal.num_starts == 3
    assert proposal.num_requests >= proposal.shape.min_requests
    assert "about 5 min in all; there are 5 min for it (--minutes)" in proposal.in_words


@pytest.mark.parametrize("scaling", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("alone", [8.0, 15.0, 26.0, 60.0, 200.0, 5000.0])
@pytest.mark.parametrize("num_servers", [1, 2])
def test_what_is_proposed_fits_and_no_larger_load_would(num_servers: int, alone: float, scaling: float) -> None:
    speeds = [speed(alone, scaling=scaling)] * num_servers
    proposal = propose(speeds, minutes=None)
    shape, num_starts = proposal.shape, proposal.num_starts
    assert proposal.seconds <= proposal.budget_s
    assert shape.min_requests <= proposal.num_requests <= MAX_REQUESTS
    larger = SHAPES[: SHAPES.index(shape)]
    assert all(each.seconds(each.min_requests, speeds, num_starts=num_starts) > proposal.budget_s for each in larger)
    if proposal.num_requests < MAX_REQUESTS:
        assert shape.seconds(proposal.num_requests + 1, speeds, num_starts=num_starts) > proposal.budget_s


def test_where_the_least_that_tells_anything_takes_longer_that_is_said() -> None:
    proposal = propose([speed(1.0), speed(200.0)], minutes=None)
    assert (proposal.shape, proposal.num_requests) == (SHAPES[-1], SHAPES[-1].min_requests)
    assert proposal.seconds > 300
    assert "which is more: fewer or shorter requests tell nothing" in proposal.in_words


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: str(shape.users))
def test_every_load_has_two_requests_for_each_user_and_enough_for_a_median(shape) -> None:
    assert shape.min_requests >= 2 * max(shape.users)
    assert shape.min_requests >= num_values_needed(50, confidence=CONFIDENCE)


def test_more_minutes_make_a_larger_load() -> None:
    few, many = (propose([speed(20.0)] * 2, minutes=minutes) for minutes in (2, 20))
    assert SHAPES.index(few.shape) > SHAPES.index(many.shape)
    assert (few.budget_s, many.budget_s) == (120, 1200)


@pytest.mark.parametrize("minutes", [0.0, -1.0, float("nan")])
def test_no_time_at_all_is_refused(minutes: float) -> None:
    with pytest.raises(ConfigError, match="--minutes"):
        propose([speed(20.0)], minutes=minutes)
