import pytest

from enginebay.loadtest.policy_metrics import PolicyMetrics, policy_metrics
from enginebay.types import EngineStats

NAMES = {
    "steps": "enginebay_engine_steps_total",
    "model_s": "enginebay_engine_model_seconds_total",
    "busy_s": "enginebay_engine_busy_seconds_total",
    "computed": "enginebay_engine_computed_tokens_total",
    "padding": "enginebay_engine_padding_tokens_total",
    "slots": "enginebay_engine_slot_steps_total",
    "idle_slots": "enginebay_engine_idle_slot_steps_total",
    "wait_s": "enginebay_engine_batch_wait_seconds_total",
    "admitted": "enginebay_engine_admitted_total",
    "discarded": "enginebay_engine_discarded_tokens_total",
}


def stats(**counters: float) -> EngineStats:
    return EngineStats(extra={NAMES[name]: value for name, value in counters.items()})


BEFORE = stats(
    steps=10,
    model_s=1.0,
    busy_s=2.0,
    computed=100,
    padding=50,
    slots=160,
    idle_slots=0,
    wait_s=5,
    admitted=4,
    discarded=0,
)
AFTER = stats(
    steps=30, model_s=7.0, busy_s=10.0, computed=500, padding=150, slots=480, idle_slots=80, wait_s=9, admitted=12,
    discarded=3,
)  # fmt: skip


def test_ratios_are_those_of_the_differences_over_the_run() -> None:
    metrics = policy_metrics(BEFORE, AFTER, elapsed_s=16.0)
    assert metrics.padding_ratio == pytest.approx(100 / 400)
    assert metrics.idle_slot_ratio == pytest.approx(80 / 320)
    assert metrics.batch_wait_s == pytest.approx(4 / 8)
    assert metrics.outside_model_ratio == pytest.approx(1 - 6 / 8)
    assert metrics.engine_idle_ratio == pytest.approx(1 - 8 / 16)
    assert metrics.mean_batch_size == pytest.approx(240 / 20)
    assert (metrics.num_steps, metrics.num_discarded_tokens) == (20, 3)


def test_an_engine_without_these_counters_has_no_such_figures() -> None:
    assert policy_metrics(EngineStats(), EngineStats(), elapsed_s=1.0) == PolicyMetrics()


def test_nothing_to_divide_by_gives_no_figure() -> None:
    metrics = policy_metrics(BEFORE, BEFORE, elapsed_s=1.0)
    assert (metrics.padding_ratio, metrics.idle_slot_ratio, metrics.batch_wait_s) == (None, None, None)
    assert metrics.engine_idle_ratio == 1.0


def test_counters_that_went_down_tell_of_a_restart_and_give_no_figure() -> None:
    assert policy_metrics(AFTER, BEFORE, elapsed_s=1.0) == PolicyMetrics()
