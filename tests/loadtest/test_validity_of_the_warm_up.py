"""The trend test: what it finds, and how often it cries wolf, over runs of a simulated engine with fixed seeds."""

from dataclasses import replace

import msgspec
import pytest
from validity_fakes import EIGHT_USERS, FOUR_A_SECOND, Engine, alarms, codes, ordinary_run, record_of, unchecked

from enginebay.loadtest.plan import Load
from enginebay.loadtest.validity.warm_up import warmed_up
from enginebay.statistics.trend import trend

NUM_RUNS = 40
ONE_USER, SIXTEEN_USERS = Load(users=1), Load(users=16)
ONE_A_SECOND, EIGHT_A_SECOND = Load(rate=1.0, arrivals="poisson"), Load(rate=8.0, arrivals="poisson")


def num_alarms(load: Load, num_requests: int, *, engine: Engine | None = None, num_runs: int = NUM_RUNS) -> int:
    return sum(
        bool(alarms(warmed_up, ordinary_run(load, num_requests, engine=engine, seed=seed))) for seed in range(num_runs)
    )


def test_false_alarms_are_at_most_one_in_a_hundred_over_ordinary_runs_of_a_warm_engine() -> None:
    shapes = [
        (ONE_USER, 48), (EIGHT_USERS, 48), (SIXTEEN_USERS, 48), (EIGHT_USERS, 150),
        (ONE_A_SECOND, 60), (FOUR_A_SECOND, 100), (EIGHT_A_SECOND, 150),
    ]  # fmt: skip
    found = {(str(load), num_requests): num_alarms(load, num_requests) for load, num_requests in shapes}
    assert sum(found.values()) <= 0.01 * NUM_RUNS * len(shapes), found


@pytest.mark.parametrize("load", [EIGHT_USERS, SIXTEEN_USERS])
def test_an_engine_that_is_four_times_slower_in_its_first_seconds_is_found(load) -> None:
    cold = Engine(slow_start=3.0, slow_start_s=8.0)
    assert num_alarms(load, 150, engine=cold, num_runs=10) >= 9


def test_an_open_loop_sees_it_in_the_time_per_token() -> None:
    cold = Engine(slow_start=3.0, slow_start_s=20.0)
    found = [alarms(warmed_up, ordinary_run(ONE_A_SECOND, 150, engine=cold, seed=seed)) for seed in range(10)]
    assert sum(map(bool, found)) >= 5


def test_a_compilation_in_the_first_step_is_found_although_the_first_round_is_no_part_of_the_trend() -> None:
    cold = Engine(first_step_s=10.0)
    assert codes(ordinary_run(EIGHT_USERS, 48, engine=cold)) == ["warm_up_too_short"]
    assert codes(ordinary_run(EIGHT_USERS, 48, engine=Engine(first_step_s=0.0))) == []


def test_an_engine_that_becomes_slower_was_warm() -> None:
    """Told by the direction alone: the same run, played backwards."""
    cold = ordinary_run(EIGHT_USERS, 150, engine=Engine(slow_start=3.0, slow_start_s=8.0))
    assert alarms(warmed_up, cold) == ["warm_up_too_short"]
    end = max(record.ended_at for record in cold.records)
    backwards = [
        record_of(planned, end - record.ended_at, [end - arrival.at for arrival in reversed(record.arrivals)])
        for record, planned in zip(cold.records, cold.planned_load.requests, strict=True)
    ]
    assert alarms(warmed_up, replace(cold, records=backwards)) == []


def test_too_short_a_run_and_a_load_that_changes_by_itself_are_not_looked_at() -> None:
    short = ordinary_run(EIGHT_USERS, 10)
    assert (codes(short), unchecked(short)) == ([], ["warm_up_too_short"])
    ramp = Load(rate=1.0, end_rate=4.0, duration_s=30.0, arrivals="ramp")
    evidence = ordinary_run(ONE_A_SECOND, 60)
    evidence = replace(evidence, planned_load=msgspec.structs.replace(evidence.planned_load, load=ramp))
    assert (alarms(warmed_up, evidence), unchecked(evidence)) == ([], ["warm_up_too_short"])


def test_a_trend_is_told_with_its_direction_and_size() -> None:
    rising = [float(value) for value in range(1, 13)]
    assert trend(rising, "up").p_value < 1e-6
    assert trend(rising, "down").p_value == pytest.approx(1.0)
    assert trend(rising, "up").change_ratio == pytest.approx((9 + 10 + 11 + 12) / (1 + 2 + 3 + 4))
    assert trend([5.0] * 12, "up").p_value == 1.0
    with pytest.raises(ValueError, match="six"):
        trend([1.0, 2.0], "up")
