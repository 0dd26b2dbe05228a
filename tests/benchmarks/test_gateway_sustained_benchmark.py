"""The benchmark of the gateway over ten minutes: what was due, and what came of it in each minute."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from bars import exit_code
from gateway_sustained import LEAD_S, Minutes, bars, requests_due

from enginebay.loadtest.records import Arrival, Record


def record(due_at: float, *, took_s: float = 0.01, late_s: float = 0.0, num_tokens: int = 16) -> Record:
    scheduled_at = LEAD_S + due_at
    return Record(
        index=0,
        scheduled_at=scheduled_at,
        sent_at=scheduled_at + late_s,
        ended_at=scheduled_at + took_s,
        arrivals=[Arrival(scheduled_at + took_s, num_tokens)],
        num_planned_prompt_tokens=8,
        max_tokens=16,
        num_output_tokens=num_tokens,
    )


def failed(due_at: float) -> Record:
    broken = record(due_at)
    broken.error_class, broken.error_message = "BackendUnavailable", "gone"
    return broken


def test_requests_are_due_at_a_constant_rate() -> None:
    due = requests_due(1000.0, 2.0)
    assert len(due) == 2000
    assert [request.offset_s for request in due[:3]] == pytest.approx([LEAD_S, LEAD_S + 0.001, LEAD_S + 0.002])


def test_each_answer_counts_in_the_minute_in_which_it_was_due_from_that_instant_on() -> None:
    minutes = Minutes(120.0, num_tokens=16)
    for one in (record(0.0, took_s=0.02, late_s=0.015), record(59.99, took_s=5.0), record(60.0), record(119.9)):
        minutes.add(one)
    first, second = minutes.as_json()
    assert (first["num_answered"], second["num_answered"]) == (2, 2)
    assert first["latency_max_s"] == pytest.approx(5.0)
    assert first["latency_p50_s"] == pytest.approx(2.51)
    assert second["latency_p99.9_s"] == pytest.approx(0.01)


def test_a_failure_and_an_answer_of_other_length_are_errors() -> None:
    minutes = Minutes(60.0, num_tokens=16)
    for one in (record(0.0), failed(1.0), record(2.0, num_tokens=15)):
        minutes.add(one)
    assert (minutes.num_answered, minutes.num_errors) == (1, 2)
    assert minutes.as_json()[0]["num_offered"] == 3
    assert minutes.first_error == "BackendUnavailable: gone"


def test_memory_is_the_most_of_each_minute() -> None:
    minutes = Minutes(120.0, num_tokens=16)
    for elapsed_s, resident_bytes in ((0.0, 5), (30.0, 9), (55.0, 7), (60.0, 8), (119.0, 11), (121.0, 10)):
        minutes.sampled(elapsed_s, resident_bytes)
    assert [minute["resident_bytes"] for minute in minutes.as_json()] == [9, 11]
    assert minutes.resident_growth_bytes == 2


@pytest.mark.parametrize(
    ("records", "lag_s", "code"),
    [
        ([record(0.0), record(1.0)], 0.0005, 0),
        ([record(0.0), failed(1.0)], 0.0005, 1),
        ([record(0.0)], 0.0005, 1),
        ([record(0.0), record(1.0)], 0.0011, 1),
    ],
    ids=["all well", "one fails", "one is missing", "the client falls behind"],
)
def test_each_bar_can_fail(records: list[Record], lag_s: float, code: int) -> None:
    minutes = Minutes(60.0, num_tokens=16)
    for one in records:
        minutes.add(one)
    assert exit_code(bars(minutes, num_offered=2, rate=1000.0, client={"send_lag_p50_s": lag_s})) == code
