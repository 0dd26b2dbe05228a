import random

import numpy as np
import pytest

from enginebay.statistics.percentiles import percentile
from enginebay.statistics.summary import summarize


def test_percentiles_interpolate_between_the_nearest_ranks() -> None:
    values = [10.0, 20.0, 30.0, 40.0, 50.0]
    assert percentile(values, 0) == 10.0
    assert percentile(values, 50) == 30.0
    assert percentile(values, 90) == pytest.approx(46.0)
    assert percentile(values, 100) == 50.0


def test_percentiles_agree_with_numpy_on_any_sample() -> None:
    rng = random.Random(7)
    for size in (1, 2, 3, 17, 1000):
        values = [rng.lognormvariate(0, 1) for _ in range(size)]
        for percent in (0, 1, 12.5, 50, 90, 95, 99, 100):
            assert percentile(values, percent) == pytest.approx(float(np.percentile(values, percent)))


def test_order_does_not_matter_and_the_input_is_left_alone() -> None:
    values = [3.0, 1.0, 2.0]
    assert percentile(values, 50) == 2.0
    assert values == [3.0, 1.0, 2.0]


@pytest.mark.parametrize("percent", [-1, 100.1, float("nan")])
def test_a_percentage_outside_0_to_100_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 100"):
        percentile([1.0], percent)


def test_a_percentile_of_nothing_is_refused_and_a_summary_of_nothing_is_none() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)
    assert summarize([]) is None
    assert summarize([None, None]) is None


def test_a_summary_of_0_to_100_is_its_own_percentiles() -> None:
    summary = summarize(float(value) for value in range(101))
    assert summary is not None
    assert (summary.num_values, summary.mean) == (101, 50.0)
    assert (summary.p50, summary.p90, summary.p95, summary.p99) == (50.0, 90.0, 95.0, 99.0)


def test_a_summary_leaves_out_what_is_not_there() -> None:
    summary = summarize([1.0, None, 3.0])
    assert summary is not None
    assert (summary.num_values, summary.mean) == (2, 2.0)
