"""The circuit breaker, the retry budget, and what counts for them."""

import pytest

from enginebay import errors
from enginebay.gateway.pool.breaker import Breaker, BreakerBounds
from enginebay.gateway.pool.faults import is_fault_of_replica, may_work_elsewhere
from enginebay.gateway.pool.retry_budget import RetryBudget
from enginebay.testing import FakeClock

BOUNDS = BreakerBounds(num_failures=3, num_outcomes=10, open_s=5.0, max_open_s=12.0)


def opened(clock):
    breaker = Breaker(clock, BOUNDS)
    for _ in range(3):
        breaker.failed(breaker.begin())
    return breaker


def test_it_opens_at_so_many_failures_among_the_last_outcomes_also_with_successes_between():
    breaker = Breaker(FakeClock(), BOUNDS)
    for _ in range(2):
        breaker.failed(breaker.begin())
        breaker.worked(breaker.begin())
    assert breaker.admits()
    breaker.failed(breaker.begin())
    assert breaker.state == "open"
    assert not breaker.admits()


def test_failures_that_lie_long_back_are_forgotten():
    breaker = Breaker(FakeClock(), BOUNDS)
    for _ in range(50):
        breaker.failed(None)
        for _ in range(9):
            breaker.worked(None)
    assert breaker.state == "closed"


def test_after_its_time_one_trial_decides_and_no_second_is_let_in_beside_it():
    clock = FakeClock()
    breaker = opened(clock)
    clock.advance(4.99)
    assert not breaker.admits()
    clock.advance(0.01)
    assert breaker.state == "half-open"
    trial = breaker.begin()
    assert not breaker.admits()
    breaker.worked(trial)
    assert breaker.state == "closed"
    assert breaker.admits()


def test_a_trial_that_fails_doubles_the_time_up_to_its_bound():
    clock = FakeClock()
    breaker = opened(clock)
    for expected_s in (10.0, 12.0, 12.0):
        clock.advance(breaker.open_until - clock.now())
        breaker.failed(breaker.begin())
        assert breaker.open_until - clock.now() == pytest.approx(expected_s)


def test_a_trial_whose_client_leaves_makes_room_for_the_next():
    clock = FakeClock()
    breaker = opened(clock)
    clock.advance(5.0)
    breaker.forget(breaker.begin())
    assert breaker.admits()
    assert breaker.state == "half-open"


def test_requests_from_before_it_opened_decide_nothing_afterwards():
    clock = FakeClock()
    breaker = Breaker(clock, BOUNDS)
    old = breaker.begin()
    for _ in range(3):
        breaker.failed(breaker.begin())
    until = breaker.open_until
    breaker.worked(old)
    assert breaker.state == "open"
    clock.advance(1.0)
    breaker.failed(old)
    assert breaker.open_until == until
    clock.advance(5.0)
    trial = breaker.begin()
    breaker.worked(old)
    breaker.forget(old)
    assert not breaker.admits()
    breaker.worked(trial)
    assert breaker.admits()


FAULTS = [
    errors.BackendUnavailable("x"),
    errors.BackendTimeout("x"),
    errors.EngineDied("x"),
    errors.EngineStepFailed("x"),
    errors.BackendError("x"),
    errors.NotStarted("x"),
    errors.StreamContractViolated("x"),
    errors.UpstreamError("x", status=500),
    errors.UpstreamError("x"),
]
NO_FAULTS = [
    errors.InvalidRequest("x"),
    errors.UnknownModel("x", available=()),
    errors.RateLimited("x", retry_after_s=1.0),
    errors.UpstreamError("x", status=401),
    errors.UpstreamError("x", status=499),
    errors.UpstreamError("x", status=501),
]


@pytest.mark.parametrize("error", FAULTS, ids=lambda error: type(error).__name__)
def test_faults_of_transport_and_engine_count(error):
    assert is_fault_of_replica(error)
    assert may_work_elsewhere(error)


@pytest.mark.parametrize("error", NO_FAULTS, ids=lambda error: type(error).__name__)
def test_what_the_request_is_to_blame_for_does_not(error):
    assert not is_fault_of_replica(error)
    assert not may_work_elsewhere(error)


@pytest.mark.parametrize("error", [errors.BackendOverloaded("x"), errors.ShuttingDown("x")])
def test_load_and_a_planned_end_are_no_faults_but_another_may_have_room(error):
    assert not is_fault_of_replica(error)
    assert may_work_elsewhere(error)


def test_a_budget_grants_its_share_of_the_requests_and_no_more():
    budget = RetryBudget(FakeClock(), ratio=0.1, min_retries_per_s=0.0)
    while budget.take():
        pass
    num_granted = 0
    for _ in range(1000):
        budget.request_began()
        num_granted += budget.take()
    assert num_granted in (99, 100)


def test_a_budget_drips_for_quiet_times_and_keeps_a_bounded_stock():
    clock = FakeClock()
    budget = RetryBudget(clock, ratio=0.0, min_retries_per_s=2.0, max_kept=6.0)
    clock.advance(1000.0)
    assert sum(budget.take() for _ in range(100)) == 6
    clock.advance(0.5)
    assert [budget.take(), budget.take()] == [True, False]
