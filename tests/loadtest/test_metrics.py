import pytest

from enginebay.loadtest.metrics import (
    ServiceLevels,
    chunk_gap_s,
    e2e_s,
    is_good,
    itl_s,
    output_tokens,
    run_metrics,
    tpot_s,
    ttft_s,
    ttft_scheduled_s,
)
from enginebay.loadtest.records import INTERRUPTED, Arrival, Record


def record(*arrivals: tuple[float, int], index: int = 0, sent_at: float = 1.0, **fields) -> Record:
    """Scheduled at 0.5, sent at 1.0; usage is what arrived unless told otherwise."""
    defaults = {
        "scheduled_at": 0.5,
        "ended_at": arrivals[-1][0] if arrivals else sent_at,
        "num_planned_prompt_tokens": 10,
        "max_tokens": 99,
        "num_prompt_tokens": 10,
        "num_output_tokens": sum(num_tokens for _, num_tokens in arrivals),
    }
    return Record(
        index=index, sent_at=sent_at, arrivals=[Arrival(*arrival) for arrival in arrivals], **(defaults | fields)
    )


STEADY = record((1.2, 1), (1.3, 1), (1.5, 1))
BUNCHED = record((1.2, 1), (1.6, 3), (1.8, 1))


def test_time_to_first_token_counts_from_sending_and_from_the_schedule() -> None:
    assert ttft_s(STEADY) == pytest.approx(0.2)
    assert ttft_scheduled_s(STEADY) == pytest.approx(0.7)
    assert e2e_s(STEADY) == pytest.approx(0.5)


def test_time_per_output_token_leaves_the_first_token_out() -> None:
    assert tpot_s(STEADY) == pytest.approx(0.3 / 2)
    assert tpot_s(BUNCHED) == pytest.approx(0.6 / 4)


def test_one_token_has_no_time_per_output_token_and_no_gaps() -> None:
    single = record((1.2, 1))
    assert tpot_s(single) is None
    assert list(itl_s(single)) == []
    assert list(chunk_gap_s(single)) == []


def test_tokens_of_one_chunk_share_its_arrival_so_gaps_of_tokens_and_chunks_differ() -> None:
    assert list(itl_s(BUNCHED)) == pytest.approx([0.4, 0.0, 0.0, 0.2])
    assert list(chunk_gap_s(BUNCHED)) == pytest.approx([0.4, 0.2])


def test_a_first_chunk_of_several_tokens_has_gaps_of_zero_inside() -> None:
    assert list(itl_s(record((1.2, 2), (1.3, 1)))) == pytest.approx([0.0, 0.1])


def test_gaps_between_tokens_sum_to_the_time_from_first_to_last() -> None:
    assert sum(itl_s(BUNCHED)) == pytest.approx(sum(chunk_gap_s(BUNCHED))) == pytest.approx(0.6)
    assert len(list(itl_s(BUNCHED))) == output_tokens(BUNCHED) - 1


def test_output_tokens_are_the_engines_count_and_what_arrived_only_without_one() -> None:
    assert output_tokens(record((1.2, 1), num_output_tokens=7)) == 7
    assert output_tokens(record((1.2, 1), (1.3, 2), num_output_tokens=None)) == 3
    assert run_metrics([record((1.2, 1), num_output_tokens=None)], ServiceLevels()).num_missing_usage == 1


def test_an_answer_without_tokens_has_no_latency_and_is_still_counted() -> None:
    empty = record(ended_at=1.4)
    assert (ttft_s(empty), tpot_s(empty), e2e_s(empty)) == (None, None, None)
    metrics = run_metrics([empty], ServiceLevels())
    assert (metrics.num_requests, metrics.num_errors, metrics.ttft_s) == (1, 0, None)


def failed(*arrivals: tuple[float, int], **fields) -> Record:
    return record(*arrivals, error_class="EngineDied", error_message="gone", **fields)


def test_errors_stay_in_every_denominator_and_their_time_in_the_duration() -> None:
    metrics = run_metrics([STEADY, BUNCHED, failed(ended_at=10.5)], ServiceLevels())
    assert metrics.duration_s == pytest.approx(10.0)
    assert (metrics.num_requests, metrics.num_errors) == (3, 1)
    assert metrics.requests_per_s == pytest.approx(2 / 10)
    assert metrics.output_tokens_per_s == pytest.approx(8 / 10)
    assert metrics.goodput_rps == pytest.approx(2 / 10)
    assert metrics.goodput_ratio == pytest.approx(2 / 3)


def test_tokens_of_a_failed_request_are_no_throughput() -> None:
    metrics = run_metrics([failed((1.2, 5), ended_at=2.5)], ServiceLevels())
    assert (metrics.num_output_tokens, metrics.output_tokens_per_s, metrics.ttft_s) == (0, 0.0, None)


def test_what_was_interrupted_is_neither_answered_nor_failed() -> None:
    interrupted = record((1.2, 1), error_class=INTERRUPTED, error_message="stopped")
    metrics = run_metrics([STEADY, interrupted], ServiceLevels())
    assert (metrics.num_requests, metrics.num_errors, metrics.num_unfinished) == (1, 0, 1)


def test_what_was_interrupted_adds_no_time_to_the_duration() -> None:
    interrupted = record((1.2, 1), scheduled_at=0.1, ended_at=60.0, error_class=INTERRUPTED, error_message="stopped")
    metrics = run_metrics([STEADY, interrupted], ServiceLevels())
    assert metrics.duration_s == pytest.approx(1.0), "from the schedule of STEADY to its last token"
    assert metrics.output_tokens_per_s == pytest.approx(3.0)
    assert run_metrics([interrupted], ServiceLevels()).duration_s == 0.0


def test_duration_runs_from_the_first_scheduled_instant_to_the_last_token() -> None:
    # The stream of STEADY stayed open for a while after its last token: that is not load.
    metrics = run_metrics([record((1.2, 1), (1.5, 1), ended_at=9.0)], ServiceLevels())
    assert metrics.duration_s == pytest.approx(1.0)


def test_a_request_is_good_when_it_meets_every_level_given() -> None:
    assert is_good(STEADY, ServiceLevels())
    assert is_good(STEADY, ServiceLevels(ttft_s=0.21, tpot_s=0.16, e2e_s=0.51))
    assert not is_good(STEADY, ServiceLevels(ttft_s=0.19))
    assert not is_good(STEADY, ServiceLevels(tpot_s=0.14))
    assert not is_good(STEADY, ServiceLevels(e2e_s=0.49))
    assert not is_good(failed(), ServiceLevels())


def test_one_token_cannot_miss_the_level_for_further_tokens_but_no_token_misses_the_first() -> None:
    assert is_good(record((1.2, 1)), ServiceLevels(tpot_s=0.001))
    assert not is_good(record(), ServiceLevels(ttft_s=10.0))


def test_a_second_count_stands_beside_the_engines_and_a_difference_is_told() -> None:
    same = record((1.2, 1), (1.3, 1), num_retokenized_tokens=2)
    other = record((1.2, 1), (1.3, 1), num_retokenized_tokens=3)
    metrics = run_metrics([same, other], ServiceLevels())
    assert (metrics.num_output_tokens, metrics.num_retokenized_tokens, metrics.num_token_mismatches) == (4, 5, 1)
    assert run_metrics([STEADY], ServiceLevels()).num_retokenized_tokens is None


def test_the_lengths_that_were_planned_stand_beside_those_that_came() -> None:
    capped = record((1.2, 1), (1.3, 1), max_tokens=2, num_output_tokens=2, num_prompt_tokens=10)
    ended_early = record((1.2, 1), (1.3, 1), max_tokens=8, num_output_tokens=2, num_prompt_tokens=30)
    metrics = run_metrics([capped, ended_early, failed()], ServiceLevels())
    assert metrics.planned_output_lengths is not None
    assert metrics.output_lengths is not None
    assert metrics.prompt_lengths is not None
    assert (metrics.planned_output_lengths.mean, metrics.output_lengths.mean, metrics.prompt_lengths.mean) == (5, 2, 20)
    assert (metrics.output_lengths.num_values, metrics.num_capped_outputs) == (2, 1)


def test_percentiles_pool_the_requests() -> None:
    records = [record((1.0 + wait / 100, 1), index=wait) for wait in range(101)]
    metrics = run_metrics(records, ServiceLevels())
    assert metrics.ttft_s is not None
    assert metrics.ttft_s.num_values == 101
    assert metrics.ttft_s.mean == pytest.approx(0.5)
    assert metrics.ttft_s.p90 == pytest.approx(0.9)
    assert metrics.ttft_s.p99 == pytest.approx(0.99)


def test_no_records_give_no_figures_and_no_division_by_zero() -> None:
    metrics = run_metrics([], ServiceLevels())
    assert (metrics.duration_s, metrics.requests_per_s, metrics.goodput_ratio, metrics.e2e_s) == (0.0, 0.0, 0.0, None)
