import math

import numpy as np
import pytest
from scipy import stats

from enginebay.statistics.power import FEWEST_STARTS, starts_to_differ, starts_to_equate

TEN_PERCENT, NOISE = math.log(1.1), 0.05 * math.sqrt(2)
"""Of a pair's log ratio, where each start scatters by 5 %."""


def test_ten_percent_at_five_percent_noise_takes_about_eight_starts() -> None:
    assert starts_to_differ(TEN_PERCENT, NOISE, level=0.05) == 7
    assert starts_to_differ(TEN_PERCENT, NOISE, level=0.05, spread_degrees_of_freedom=7) == 8
    assert starts_to_differ(TEN_PERCENT, NOISE, level=0.05 / 7) == 11, "surer for seven figures"


@pytest.mark.parametrize("level", [0.05, 0.05 / 7])
@pytest.mark.parametrize("is_paired", [True, False])
def test_a_recommended_number_finds_the_difference_in_four_of_five_cases_and_one_less_does_not(
    level, is_paired
) -> None:
    number = starts_to_differ(TEN_PERCENT, NOISE, level=level, is_paired=is_paired)
    assert found_differences(number, level=level, is_paired=is_paired) >= 0.8 - 3 * math.sqrt(0.16 / 8000)
    assert found_differences(number - 1, level=level, is_paired=is_paired) < 0.8 + 3 * math.sqrt(0.16 / 8000)


def found_differences(number: int, *, level: float, is_paired: bool) -> float:
    rng = np.random.default_rng(number)
    if is_paired:
        p = stats.ttest_1samp(rng.normal(TEN_PERCENT, NOISE, (8000, number)), 0, axis=1).pvalue
    else:
        sides = (rng.normal(mean, NOISE / math.sqrt(2), (8000, number)) for mean in (TEN_PERCENT, 0))
        p = stats.ttest_ind(*sides, axis=1, equal_var=False).pvalue
    return float(np.mean(p <= level))


@pytest.mark.parametrize("true_difference", [0.0, 0.02])
def test_a_recommended_number_shows_equivalence_in_four_of_five_cases(true_difference) -> None:
    margin = math.log(1.05)
    number = starts_to_equate(true_difference, 0.05, margin=margin, level=0.05)
    values = np.random.default_rng(0).normal(true_difference, 0.05, (8000, number))
    above = stats.ttest_1samp(values, -margin, axis=1, alternative="greater").pvalue
    below = stats.ttest_1samp(values, margin, axis=1, alternative="less").pvalue
    assert np.mean(np.maximum(above, below) <= 0.05) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("num_pilots", [3, 5])
def test_a_number_recommended_from_few_starts_holds_although_their_scatter_is_chance(num_pilots) -> None:
    rng = np.random.default_rng(num_pilots)
    found = []
    for _ in range(400):
        spread = float(rng.normal(0, NOISE, num_pilots).std(ddof=1))
        number = starts_to_differ(TEN_PERCENT, spread, level=0.05, spread_degrees_of_freedom=num_pilots - 1)
        found.append(number is None or stats.ttest_1samp(rng.normal(TEN_PERCENT, NOISE, number), 0).pvalue <= 0.05)
    assert np.mean(found) >= 0.8 - 3 * math.sqrt(0.16 / 400)


def test_what_no_number_of_starts_would_show_has_none() -> None:
    assert starts_to_differ(0.0, 0.05, level=0.05) is None
    assert starts_to_equate(0.05, 0.05, margin=0.05, level=0.05) is None
    assert starts_to_equate(0.0499, 0.05, margin=0.05, level=0.05) is None


def test_never_fewer_than_three_starts_are_recommended() -> None:
    assert starts_to_differ(5.0, 0.001, level=0.05) == FEWEST_STARTS
