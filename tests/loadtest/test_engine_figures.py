import pytest

from enginebay.loadtest.engine_figures import EngineFigures, engine_figures
from enginebay.loadtest.plan import Load
from enginebay.loadtest.records import RunKey
from enginebay.loadtest.timeseries import Sample
from enginebay.types import EngineStats, HistogramSnapshot


def histogram(count: float, total: float) -> HistogramSnapshot:
    return HistogramSnapshot((float("inf"),), (count,), total)


def sample(**values) -> Sample:
    return Sample(run=RunKey(label="a", load=Load(users=1)), at=0.0, num_in_flight=1, **values)


def test_means_are_of_what_was_observed_between_the_two_readings() -> None:
    before = EngineStats(
        queue_seconds=histogram(10, 50.0), ttft_seconds=histogram(10, 100.0), tpot_seconds=histogram(10, 1.0)
    )
    after = EngineStats(
        queue_seconds=histogram(14, 52.0), ttft_seconds=histogram(14, 103.2), tpot_seconds=histogram(14, 1.2)
    )
    figures = engine_figures(before, after, [])
    assert figures.queue_s == pytest.approx(0.5)
    assert figures.prefill_s == pytest.approx(0.3)
    assert figures.decode_s == pytest.approx(0.05)


def test_a_histogram_that_appears_with_its_first_value_counts_from_nothing() -> None:
    assert engine_figures(EngineStats(), EngineStats(queue_seconds=histogram(4, 2.0)), []).queue_s == 0.5


def test_counters_of_the_engine_give_batch_tokens_per_step_and_speculation() -> None:
    extra = {
        "enginebay_engine_steps_total": 10.0,
        "enginebay_engine_slot_steps_total": 80.0,
        "enginebay_engine_idle_slot_steps_total": 20.0,
        "enginebay_engine_drafts_total": 5.0,
        "enginebay_engine_accepted_tokens_total": 10.0,
    }
    before = EngineStats(extra=dict.fromkeys(extra, 0.0), generation_tokens_total=100.0)
    after = EngineStats(
        extra=extra,
        generation_tokens_total=175.0,
        spec_decode_accepted_tokens_total=6.0,
        spec_decode_drafted_tokens_total=8.0,
        prefix_cache_hits_total=3.0,
        prefix_cache_queries_total=4.0,
    )
    figures = engine_figures(before, after, [])
    assert (figures.batch_size, figures.tokens_per_step, figures.tokens_per_draft) == (6.0, 7.5, 3.0)
    assert (figures.acceptance_ratio, figures.cache_hit_ratio) == (None, None), "no reading before"
    zero = EngineStats(
        spec_decode_accepted_tokens_total=0.0,
        spec_decode_drafted_tokens_total=0.0,
        prefix_cache_hits_total=0.0,
        prefix_cache_queries_total=0.0,
    )
    figures = engine_figures(zero, after, [])
    assert (figures.acceptance_ratio, figures.cache_hit_ratio) == (0.75, 0.75)


def test_an_engine_without_counters_is_seen_through_its_samples() -> None:
    samples = [
        sample(num_running=4.0, num_waiting=1.0, kv_cache_usage_ratio=0.2),
        sample(num_running=8.0, num_waiting=0.0, kv_cache_usage_ratio=0.7),
        sample(num_running=0.0, num_waiting=0.0),
    ]
    figures = engine_figures(EngineStats(), EngineStats(), samples)
    assert figures.batch_size == 6.0, "an idle instant is no small batch"
    assert figures.num_waiting == pytest.approx(1 / 3)
    assert figures.kv_cache_usage_ratio == 0.7


def test_what_is_not_told_or_went_down_is_none() -> None:
    assert engine_figures(EngineStats(), EngineStats(), []) == EngineFigures()
    restarted = engine_figures(EngineStats(preemptions_total=5.0), EngineStats(preemptions_total=1.0), [])
    assert restarted.num_preemptions is None
