import math

import pytest

from enginebay.loadtest.arrivals import constant_offsets, poisson_offsets
from enginebay.statistics.dispersion import (
    coefficient_of_variation,
    counts_per_window,
    gaps_between,
    index_of_dispersion,
    lag_1_autocorrelation,
)

NUM = 20_000


def test_constant_arrivals_are_equally_spaced_to_the_last_bit_and_do_not_drift() -> None:
    offsets = constant_offsets(100_001, rate=3.0)
    assert offsets[0] == 0.0
    assert offsets[-1] == 100_000 / 3.0
    assert index_of_dispersion(counts_per_window(constant_offsets(1000, rate=10.0), window_s=1.0)) == 0.0


def test_poisson_arrivals_have_the_rate_the_spread_and_the_independence_of_their_name() -> None:
    gaps = gaps_between(poisson_offsets(NUM, rate=50.0, seed=3))
    # Four standard errors each.
    assert sum(gaps) / len(gaps) == pytest.approx(1 / 50, rel=4 / math.sqrt(NUM))
    assert coefficient_of_variation(gaps) == pytest.approx(1.0, abs=4 / math.sqrt(NUM))
    assert lag_1_autocorrelation(gaps) == pytest.approx(0.0, abs=4 / math.sqrt(NUM))


def test_poisson_counts_have_an_index_of_dispersion_of_one() -> None:
    counts = counts_per_window(poisson_offsets(NUM, rate=50.0, seed=4), window_s=1.0)
    assert index_of_dispersion(counts) == pytest.approx(1.0, abs=4 * math.sqrt(2 / len(counts)))


def test_a_seed_gives_one_schedule_and_another_seed_another() -> None:
    assert poisson_offsets(100, rate=5.0, seed=1) == poisson_offsets(100, rate=5.0, seed=1)
    assert poisson_offsets(100, rate=5.0, seed=1) != poisson_offsets(100, rate=5.0, seed=2)


def test_the_achieved_rate_is_not_forced_to_the_asked_one() -> None:
    ends = {round(poisson_offsets(100, rate=10.0, seed=seed)[-1], 6) for seed in range(5)}
    assert len(ends) == 5


def test_a_longer_schedule_begins_with_the_shorter_one() -> None:
    assert poisson_offsets(200, rate=5.0, seed=1)[:100] == poisson_offsets(100, rate=5.0, seed=1)
