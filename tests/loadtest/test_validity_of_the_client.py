"""Whether the client was fit to measure: each bound from both sides."""

from dataclasses import replace

import msgspec
import pytest
from validity_fakes import CEILING, EIGHT_USERS, FOUR_A_SECOND, HEALTHY, codes, ordinary_run, unchecked, with_records

from enginebay.loadtest.client_health import ClientHealth
from enginebay.loadtest.metrics import ServiceLevels, run_metrics
from enginebay.loadtest.plan import Load, Step
from enginebay.loadtest.validity.client import ceiling_ratio
from enginebay.loadtest.validity.evidence import Evidence


def client(**changes) -> ClientHealth:
    return msgspec.structs.replace(HEALTHY, **changes)


def with_median_ttft(evidence: Evidence, ttft_s: float) -> Evidence:
    distribution = msgspec.structs.replace(evidence.metrics.ttft_s, p50=ttft_s)
    return replace(evidence, metrics=msgspec.structs.replace(evidence.metrics, ttft_s=distribution))


def test_an_ordinary_run_is_valid_and_looked_at_in_every_respect() -> None:
    assert codes(ordinary_run()) == []
    assert unchecked(ordinary_run()) == []
    assert codes(ordinary_run(FOUR_A_SECOND, 80)) == []


@pytest.mark.parametrize(
    ("ttft_s", "lag_s", "found"),
    [(0.05, 0.010, []), (0.05, 0.0101, ["client_late"]), (0.4, 0.039, []), (0.4, 0.041, ["client_late"])],
)
def test_an_open_loop_client_is_late_beyond_ten_milliseconds_or_a_tenth_of_the_first_token(
    ttft_s, lag_s, found
) -> None:
    evidence = with_median_ttft(ordinary_run(FOUR_A_SECOND, 80, client=client(send_lag_p99_s=lag_s)), ttft_s)
    assert codes(evidence) == found


def test_users_who_wait_for_a_connection_are_late_in_a_closed_loop_too() -> None:
    assert codes(ordinary_run(EIGHT_USERS, client=client(send_lag_p99_s=0.5))) == ["client_late"]


@pytest.mark.parametrize(
    ("ttft_s", "stall_s", "found"),
    [(0.02, 0.100, []), (0.02, 0.101, ["client_stalled"]), (0.3, 0.299, []), (0.3, 0.301, ["client_stalled"])],
)
def test_a_client_may_stand_still_for_no_longer_than_a_first_token_takes(ttft_s, stall_s, found) -> None:
    evidence = with_median_ttft(ordinary_run(client=client(longest_stall_s=stall_s)), ttft_s)
    assert codes(evidence) == found


@pytest.mark.parametrize(("stall_s", "found"), [(1.0, []), (1.01, ["client_stalled"])])
def test_however_slow_the_engine_no_client_may_stand_still_for_more_than_a_second(stall_s, found) -> None:
    evidence = with_median_ttft(ordinary_run(client=client(longest_stall_s=stall_s)), 30.0)
    assert codes(evidence) == found


def test_records_that_a_client_process_did_not_hand_over_make_a_run_invalid() -> None:
    assert codes(replace(ordinary_run(), losses=["client process 1 told nothing"])) == ["records_lost"]


@pytest.mark.parametrize(("ratios", "found"), [((0.90, 0.2), []), ((0.2, 0.91), ["client_saturated"])])
def test_one_busy_process_of_several_saturates_the_client(ratios, found) -> None:
    assert codes(ordinary_run(client=client(cpu_ratios=ratios))) == found


def test_the_share_of_the_ceiling_counts_requests_and_chunks_apart() -> None:
    evidence = ordinary_run()
    # Answers of 16 chunks are what the ceiling was measured with: 3000 of them a second are all of it.
    records = [msgspec.structs.replace(record, num_chunks=16) for record in evidence.records]
    rate = evidence.metrics.num_requests / evidence.metrics.duration_s
    assert ceiling_ratio(replace(evidence, records=records), CEILING) == pytest.approx(rate / 3000)
    # An answer without chunks costs the request alone: 1/3000 - 16/120000 of a second.
    records = [msgspec.structs.replace(record, num_chunks=0) for record in evidence.records]
    assert ceiling_ratio(replace(evidence, records=records), CEILING) == pytest.approx(rate * (1 / 3000 - 16 / 120_000))


@pytest.mark.parametrize(("share", "found"), [(0.89, []), (0.91, ["beyond_ceiling"])])
def test_a_run_near_the_ceiling_of_its_client_is_invalid(share, found) -> None:
    evidence = ordinary_run()
    duration_s = evidence.metrics.duration_s * ceiling_ratio(evidence, CEILING) / share
    faster = replace(evidence, metrics=msgspec.structs.replace(evidence.metrics, duration_s=duration_s))
    assert codes(faster) == found
    two_processes = replace(faster, client=client(cpu_ratios=(0.5, 0.5)))
    assert codes(two_processes) == []


@pytest.mark.parametrize(
    "asked",
    [
        Load(rate=5000.0, arrivals="poisson"),
        Load(rate=4.0, end_rate=5000.0, duration_s=20.0, arrivals="ramp"),
        Load(steps=(Step(rate=4.0, duration_s=19.0), Step(rate=5000.0, duration_s=1.0)), arrivals="steps"),
    ],
    ids=str,
)
def test_the_highest_rate_that_was_asked_counts_also_where_it_was_not_reached(asked) -> None:
    evidence = ordinary_run(FOUR_A_SECOND, 80)
    planned_load = msgspec.structs.replace(evidence.planned_load, load=asked)
    assert codes(replace(evidence, planned_load=planned_load)) == ["beyond_ceiling"]


def test_without_a_known_ceiling_it_is_said_that_nobody_looked() -> None:
    evidence = ordinary_run(ceiling=None)
    assert codes(evidence) == []
    assert unchecked(evidence) == ["beyond_ceiling"]


@pytest.mark.parametrize(("stretch", "found"), [(1.005, []), (1.02, ["rate_not_reached"])])
def test_requests_that_are_sent_slower_and_slower_miss_the_rate(stretch, found) -> None:
    evidence = ordinary_run(FOUR_A_SECOND, 80)
    slowed = with_records(evidence, sent_at=lambda record: record.sent_at * stretch)
    assert codes(slowed) == found


def test_an_engine_that_answers_too_slowly_is_slow_and_not_invalid() -> None:
    evidence = ordinary_run(FOUR_A_SECOND, 80)
    late = with_records(evidence, ended_at=lambda record: record.ended_at + 3 * record.index)
    assert run_metrics(late.records, ServiceLevels()).num_requests == 80
    assert codes(late) == []
