"""Metrics: three generations told apart by what is there, the iteration statistics, Triton's; renamed is missing."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import pytest
from tensorrt_llm_simulator import contract, sample

from enginebay.backends.http_engine.metric_map import MetricMap
from enginebay.errors import UpstreamError
from enginebay.types import EngineStats, HistogramSnapshot
from enginebay.wire.prometheus_text import MetricsText, parse_metrics
from enginebay_tensorrt_llm.iterations import IterationCounts
from enginebay_tensorrt_llm.metrics import (
    LINE_1_2,
    LINE_1_3,
    NEWEST,
    TRITON,
    generation_of,
    missing_from_triton,
    of_newest_process,
    stats_of,
)

NEWEST_TEXT, OLD_TEXT = sample("tensorrt_llm.prom"), sample("tensorrt_llm_1_2.prom")
TRITON_TEXT = sample("tensorrt_llm_triton.prom")
ITERATIONS = sample("tensorrt_llm_iteration_stats.json")


def as_line_1_3(text: str) -> str:
    """There is no sample of 1.3: it is the newest one without what 1.4 brought."""
    series = {entry["name"]: entry.get("since", "1.4") for entry in contract()["metrics"]["series"]}
    newer = [name for name, since in series.items() if since.startswith("1.4")]
    lines = [line for line in text.splitlines() if not any(re.search(rf"\b{name}\b|\b{name}_", line) for name in newer)]
    return "\n".join(lines) + "\n"


GENERATIONS = {
    "normalized": (NEWEST, NEWEST_TEXT),
    "normalized_1_3": (LINE_1_3, as_line_1_3(NEWEST_TEXT)),
    "normalized_1_2": (LINE_1_2, OLD_TEXT),
}


def sources(metric_map: MetricMap) -> dict[str, str]:
    split = {quantity: series for quantity, (series, _) in metric_map.by_label.items()}
    return {**metric_map.values, **metric_map.histograms, **split}


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_map_reads_what_the_contract_lists_and_nothing_else(name: str) -> None:
    wanted: Mapping[str, str | None] = contract()["metrics"][name]
    assert sources(GENERATIONS[name][0]) == {quantity: series for quantity, series in wanted.items() if series}


@pytest.mark.parametrize("name", GENERATIONS)
def test_every_sample_is_recognised_and_complete(name: str) -> None:
    metric_map, text = GENERATIONS[name]
    metrics = parse_metrics(text)
    found, stats = stats_of(metrics)
    assert found is metric_map
    assert metric_map.missing(metrics) == []
    for quantity in sources(metric_map):
        assert getattr(stats, quantity) is not None, quantity


@pytest.mark.parametrize("name", GENERATIONS)
def test_a_renamed_metric_is_missing_and_never_zero(name: str) -> None:
    metric_map, text = GENERATIONS[name]
    for quantity, series in sources(metric_map).items():
        metrics = parse_metrics(re.sub(rf"\b{series}(?=[ {{_])", f"renamed_{series}", text))
        assert getattr(metric_map.stats(metrics), quantity) is None
        if series not in metric_map.only_when:
            assert any(series in missing for missing in metric_map.missing(metrics)), series


def test_the_invented_load_is_read_alike_from_old_and_new_names() -> None:
    _, newest = stats_of(parse_metrics(NEWEST_TEXT))
    _, old = stats_of(parse_metrics(OLD_TEXT))
    for stats in (newest, old):
        assert stats.requests_total_by_finish_reason == {"stop": 83, "length": 42, "cancelled": 3}
        assert isinstance(stats.ttft_seconds, HistogramSnapshot)
        assert stats.ttft_seconds.count == 128
    assert (newest.requests_running, newest.requests_waiting) == (6, 3)
    assert old.requests_running is None


def test_a_server_that_has_answered_nothing_has_no_generation_and_no_zeros() -> None:
    assert generation_of(MetricsText({})) is None
    assert stats_of(parse_metrics("")) == (None, EngineStats())


def test_a_gauge_of_a_process_that_is_gone_is_not_added() -> None:
    text = 'trtllm_kv_cache_utilization{pid="7"} 0.9\ntrtllm_kv_cache_utilization{pid="31"} 0.4\n'
    _, stats = stats_of(parse_metrics(text))
    assert stats.kv_cache_usage_ratio == 0.4
    assert of_newest_process(parse_metrics("plain 3\n")).value("plain") == 3


# ---------------------------------------------------------------- iteration statistics


def test_gauges_are_of_the_last_iteration_and_counts_are_added_up() -> None:
    counts = IterationCounts(backend="trt")
    counts.add(ITERATIONS.encode())
    counts.add(ITERATIONS.encode())
    stats = counts.stats()
    assert (stats.requests_running, stats.requests_waiting, stats.batch_size) == (6, 3, 6)
    assert stats.kv_cache_usage_ratio == pytest.approx(531 / 1624)
    assert stats.prefix_cache_hit_ratio == pytest.approx(0.195485)
    assert stats.gpu_memory_bytes == 71940702208
    assert (stats.spec_decode_drafted_tokens_total, stats.spec_decode_accepted_tokens_total) == (30, 18)


def test_every_normalised_quantity_of_the_iteration_statistics_is_read() -> None:
    counts = IterationCounts(backend="trt")
    counts.add(ITERATIONS.encode())
    wanted = contract()["metrics"]["json_stats"]["normalized"]
    found = {name for name in EngineStats.__slots__ if name != "extra" and getattr(counts.stats(), name) is not None}
    assert found == set(wanted)


@pytest.mark.parametrize(
    "name",
    ["numActiveRequests", "numQueuedRequests", "gpuMemUsage", "usedNumBlocks", "numScheduledRequests", "cacheHitRate"],
)
def test_a_renamed_field_of_an_iteration_is_an_error(name: str) -> None:
    counts = IterationCounts(backend="trt")
    with pytest.raises(UpstreamError, match=name):
        counts.add(ITERATIONS.replace(f'"{name}"', f'"renamed_{name}"').encode())


def test_nested_objects_may_be_null() -> None:
    [_, last] = json.loads(ITERATIONS)
    counts = IterationCounts(backend="trt")
    counts.add(json.dumps([{**last, "kvCacheStats": None, "inflightBatchingStats": None}]).encode())
    stats = counts.stats()
    assert stats.kv_cache_usage_ratio is None
    assert stats.batch_size is None
    assert stats.requests_running == 6


def test_no_entries_mean_idle_only_where_nobody_else_reads_them() -> None:
    counts = IterationCounts(backend="trt")
    counts.add(b"[]")
    assert counts.stats() == EngineStats()  # statistics may be switched off: unknown, not zero
    counts.add(ITERATIONS.encode())
    counts.add(b"[]", is_sole_reader=False)
    assert counts.stats().requests_running == 6
    counts.add(b"[]")
    assert (counts.stats().requests_running, counts.stats().batch_size) == (0, 0)
    assert counts.stats().gpu_memory_bytes == 71940702208


# ---------------------------------------------------------------- Triton


def test_triton_is_read_at_its_labels() -> None:
    metrics = parse_metrics(TRITON_TEXT)
    stats = TRITON.stats(metrics)
    assert missing_from_triton(metrics) == []
    assert (stats.requests_running, stats.requests_waiting, stats.batch_size) == (6, 3, 6)
    assert stats.kv_cache_usage_ratio == pytest.approx(0.32697)
    assert stats.gpu_memory_bytes == 71940702208
    wanted = contract()["triton"]["metrics"]["normalized"]
    assert set(TRITON.derived) == set(wanted)


@pytest.mark.parametrize("name", ["active", "waiting", "scheduled", "fraction", "gpu"])
def test_a_renamed_label_of_triton_is_missing_and_never_zero(name: str) -> None:
    metrics = parse_metrics(TRITON_TEXT.replace(f'="{name}"', '="renamed"'))
    assert len(missing_from_triton(metrics)) == 1
    assert None in {getattr(TRITON.stats(metrics), quantity) for quantity in TRITON.derived}
