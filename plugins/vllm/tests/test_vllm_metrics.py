"""vLLM's metrics as the quantities of every engine: a renamed series fails here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from enginebay.wire.prometheus_text import MetricsText, parse_metrics
from enginebay_vllm.effective import from_cache_labels
from enginebay_vllm.metrics import METRICS, READ_BY_DERIVED
from enginebay_vllm.probing import cache_config

CONTRACTS = Path(__file__).parents[3] / "tests/data/contracts"
CONTRACT: Mapping[str, Any] = YAML(typ="safe").load((CONTRACTS / "vllm.yaml").read_text(encoding="utf-8"))
SAMPLES = ("metrics/vllm.prom", "live/vllm-0.32.0.prom")


def sample(name: str) -> MetricsText:
    return parse_metrics((CONTRACTS / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SAMPLES)
def test_every_series_is_there(name: str) -> None:
    assert METRICS.missing(sample(name)) == []
    assert all(series in sample(name) for series in (*READ_BY_DERIVED, *METRICS.extra))


@pytest.mark.parametrize("series", sorted({*METRICS.values.values(), *METRICS.histograms.values()}))
def test_a_renamed_series_is_missed(series: str) -> None:
    if series in METRICS.only_when:
        pytest.skip("there only while it speculates")
    text = (CONTRACTS / SAMPLES[0]).read_text(encoding="utf-8")
    renamed = parse_metrics(text.replace(series, f"{series}_v2"))
    assert METRICS.missing(renamed) in ([series], [f"{series}_bucket"])


def test_the_map_is_that_of_the_contract() -> None:
    ours: dict[str, str] = {**METRICS.values, **METRICS.histograms}
    ours |= {quantity: series for quantity, (series, _) in METRICS.by_label.items()}
    named = {quantity: series for quantity, series in CONTRACT["metrics"]["normalized"].items() if series}
    assert ours == {quantity: series for quantity, series in named.items() if quantity not in METRICS.derived}
    assert named.keys() | CONTRACT["metrics"]["derived"].keys() == ours.keys() | METRICS.derived.keys()


def test_removed_names_are_read_nowhere() -> None:
    read = {*METRICS.values.values(), *METRICS.histograms.values(), *METRICS.extra, *READ_BY_DERIVED}
    assert not read & set(CONTRACT["metrics"]["removed_names"])


def test_the_figures_of_the_sample_are_told() -> None:
    stats = METRICS.stats(sample(SAMPLES[0]))
    assert (stats.requests_running, stats.requests_waiting, stats.batch_size) == (6, 3, 6)
    assert stats.requests_total_by_finish_reason == {"stop": 83, "length": 42, "abort": 3, "error": 0, "repetition": 0}
    assert (stats.prompt_tokens_total, stats.generation_tokens_total) == (58423, 23658)
    assert stats.kv_cache_usage_ratio == 0.3271
    assert stats.prefix_cache_hit_ratio == pytest.approx(11664 / 58423)
    assert stats.ttft_seconds is not None
    assert (stats.ttft_seconds.count, stats.ttft_seconds.bounds[0]) == (134, 0.001)
    assert stats.gpu_memory_bytes is None


def test_the_usage_of_two_engines_is_their_mean_and_not_their_sum() -> None:
    text = 'vllm:kv_cache_usage_perc{engine="0"} 0.5\nvllm:kv_cache_usage_perc{engine="1"} 0.9\n'
    assert METRICS.stats(parse_metrics(text)).kv_cache_usage_ratio == pytest.approx(0.7)


def test_a_ratio_of_nothing_is_unknown() -> None:
    live = METRICS.stats(sample(SAMPLES[1]))
    assert live.prefix_cache_queries_total == 0
    assert live.prefix_cache_hit_ratio is None


def test_settings_are_read_back_from_the_cache_configuration() -> None:
    assert from_cache_labels(cache_config(sample(SAMPLES[1]))) == {
        "kv_cache_dtype": "auto",
        "gpu_memory_fraction": 0.92,
        "enable_prefix_caching": True,
        "block_size": 128,
        "num_gpu_blocks": 728,
        "kv_cache_memory_bytes": 2147483648,
        "kv_cache_size_tokens": 93184,
    }
