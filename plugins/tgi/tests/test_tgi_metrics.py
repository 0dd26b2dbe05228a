"""TGI's exposition as the quantities of every engine, on the contract's sample."""

from __future__ import annotations

import pytest
from tgi_contract import CONTRACTS, contract

from enginebay.wire.prometheus_text import parse_metrics
from enginebay_tgi.metrics import EXTRA, TGI_METRICS, stats_from

SAMPLE = (CONTRACTS / "metrics" / "tgi.prom").read_text()


def test_nothing_that_the_map_reads_is_missing_in_the_sample() -> None:
    assert TGI_METRICS.missing(parse_metrics(SAMPLE)) == []


@pytest.mark.parametrize("series", [*TGI_METRICS.values.values(), *TGI_METRICS.histograms.values()])
def test_a_renamed_metric_is_an_error_and_no_silent_zero(series: str) -> None:
    metrics = parse_metrics(SAMPLE.replace(series, f"renamed_{series}"))
    if series in TGI_METRICS.only_when:
        assert stats_from(metrics).spec_decode_accepted_tokens_total is None
    else:
        assert TGI_METRICS.missing(metrics)


def test_every_quantity_of_the_sample_has_its_value() -> None:
    stats = stats_from(parse_metrics(SAMPLE))
    assert (stats.requests_running, stats.requests_waiting, stats.batch_size) == (6, 3, 6)
    assert (stats.prompt_tokens_total, stats.generation_tokens_total) == (59_338, 22_863)
    assert stats.spec_decode_accepted_tokens_total == 710
    assert stats.e2e_seconds is not None
    assert stats.e2e_seconds.count == 125
    assert stats.e2e_seconds.sum == pytest.approx(527.757525818)
    assert stats.queue_seconds is not None
    assert stats.queue_seconds.sum == pytest.approx(6.301188702)
    assert stats.tpot_seconds is not None
    assert stats.tpot_seconds.sum == pytest.approx(2.862801298)


def test_what_tgi_does_not_tell_is_none() -> None:
    """The token budget of the batch is a reservation: it is no use of the KV cache."""
    stats = stats_from(parse_metrics(SAMPLE))
    told = {*TGI_METRICS.values, *TGI_METRICS.histograms}
    for quantity in contract()["metrics"]["normalized"]:
        assert (getattr(stats, quantity) is not None) == (quantity in told), quantity


def test_the_map_agrees_with_the_contract() -> None:
    normalized, derived = contract()["metrics"]["normalized"], contract()["metrics"]["derived"]
    for quantity, series in {**TGI_METRICS.values, **TGI_METRICS.histograms}.items():
        assert series in (normalized[quantity] or derived[quantity])


def test_tgis_own_counters_are_kept_under_their_own_names() -> None:
    extra = stats_from(parse_metrics(SAMPLE)).extra
    assert set(extra) == set(EXTRA)
    assert (extra["tgi_request_success"], extra["tgi_request_failure"]) == (125, 6)
    assert extra["tgi_batch_inference_count"] == 134 + 5165


def test_a_fresh_server_has_no_series_yet() -> None:
    stats = stats_from(parse_metrics(""))
    assert stats.requests_running is None
    assert stats.extra == {}
