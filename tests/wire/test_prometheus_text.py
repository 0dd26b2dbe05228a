from __future__ import annotations

import math
from pathlib import Path

import pytest

from enginebay.errors import UpstreamError
from enginebay.wire.prometheus_text import parse_metrics

SAMPLES = Path(__file__).parents[1] / "data" / "contracts" / "metrics"


def metrics(name: str):
    return parse_metrics((SAMPLES / name).read_text())


def test_the_samples_of_three_engines_say_the_same_invented_load():
    vllm, tgi, sglang = metrics("vllm.prom"), metrics("tgi.prom"), metrics("sglang.prom")
    assert vllm.value("vllm:num_requests_running") == 6
    assert vllm.value("vllm:num_requests_waiting") == 3
    assert vllm.value("vllm:kv_cache_usage_perc") == 0.3271
    assert sglang.value("sglang:num_running_reqs") == 6
    assert tgi.value("tgi_queue_size") == 3


def test_a_metric_that_is_absent_is_none_and_not_zero():
    vllm = metrics("vllm.prom")
    assert vllm.value("vllm:no_such_metric") is None
    assert vllm.histogram("vllm:no_such_metric") is None
    assert vllm.by_label("vllm:no_such_metric", "reason") is None
    assert vllm.value("vllm:num_requests_running", {"engine": "9"}) is None
    assert "vllm:no_such_metric" not in vllm
    assert "vllm:num_requests_running" in vllm


def test_values_are_summed_over_label_sets_or_told_apart_by_one_label():
    vllm = metrics("vllm.prom")
    by_reason = vllm.by_label("vllm:request_success_total", "finished_reason")
    assert by_reason is not None
    assert sum(by_reason.values()) == vllm.value("vllm:request_success_total") == 128
    assert vllm.value("vllm:request_success_total", {"finished_reason": "length"}) == by_reason["length"]


def test_a_histogram_is_cumulative_and_ends_at_infinity():
    snapshot = metrics("vllm.prom").histogram("vllm:time_to_first_token_seconds")
    assert snapshot is not None
    assert snapshot.bounds[-1] == math.inf
    assert list(snapshot.counts) == sorted(snapshot.counts)
    assert snapshot.count == metrics("vllm.prom").value("vllm:time_to_first_token_seconds_count")
    assert snapshot.sum == metrics("vllm.prom").value("vllm:time_to_first_token_seconds_sum")


def test_histograms_of_several_label_sets_are_summed():
    text = "".join(
        f'h_bucket{{engine="{engine}",le="1.0"}} 2\nh_bucket{{engine="{engine}",le="+Inf"}} 3\n'
        f'h_sum{{engine="{engine}"}} 4.5\nh_count{{engine="{engine}"}} 3\n'
        for engine in "01"
    )
    both = parse_metrics("# TYPE h histogram\n" + text).histogram("h")
    one = parse_metrics("# TYPE h histogram\n" + text).histogram("h", {"engine": "1"})
    assert both is not None
    assert one is not None
    assert (both.counts, both.sum) == ((4.0, 6.0), 9.0)
    assert (one.counts, one.sum) == ((2.0, 3.0), 4.5)


def test_histograms_with_different_buckets_are_not_added_up():
    text = 'h_bucket{engine="0",le="1.0"} 2\nh_bucket{engine="0",le="+Inf"} 3\nh_bucket{engine="1",le="+Inf"} 3\n'
    with pytest.raises(UpstreamError, match="different buckets"):
        parse_metrics(text).histogram("h")


@pytest.mark.parametrize("text", ['{"json": 1}', "a b c d e\n", 'x{y="1" 3\n', "<html>no metrics here</html>"])
def test_what_is_no_exposition_text_is_an_upstream_error(text):
    with pytest.raises(UpstreamError, match="no Prometheus text"):
        parse_metrics(text)
