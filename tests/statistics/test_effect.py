import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from enginebay.statistics.effect import BOOTSTRAP_FROM, paired_effect, unpaired_effect


def normal(seed: int, mean: float, spread: float, number: int) -> list[float]:
    return list(np.random.default_rng(seed).normal(mean, spread, number))


def test_few_pairs_are_judged_by_the_paired_t_test_of_scipy() -> None:
    differences = normal(1, 0.1, 0.05, 6)
    effect, known = paired_effect(differences), stats.ttest_1samp(differences, 0.0)
    assert effect.method == "paired t"
    assert effect.p_equal() == pytest.approx(known.pvalue)
    assert effect.interval(0.95) == pytest.approx(tuple(known.confidence_interval(0.95)))


def test_few_starts_of_two_sides_apart_are_judged_by_welchs_test_of_scipy() -> None:
    first, second = normal(1, 0.1, 0.05, 6), normal(2, 0.2, 0.2, 4)
    effect, known = unpaired_effect(first, second), stats.ttest_ind(second, first, equal_var=False)
    assert effect.method == "Welch t"
    assert effect.p_equal() == pytest.approx(known.pvalue)
    assert effect.degrees_of_freedom == pytest.approx(known.df)
    assert effect.interval(0.9) == pytest.approx(tuple(known.confidence_interval(0.9)))


def test_two_one_sided_tests_are_those_of_scipy() -> None:
    differences = normal(3, 0.01, 0.02, 8)
    above = stats.ttest_1samp(differences, -0.05, alternative="greater").pvalue
    below = stats.ttest_1samp(differences, 0.05, alternative="less").pvalue
    assert paired_effect(differences).p_outside(0.05) == pytest.approx(max(above, below))


def test_equivalence_at_a_level_is_the_interval_of_twice_the_level_within_the_margin() -> None:
    for seed in range(50):
        effect = paired_effect(normal(seed, 0.01, 0.03, 6))
        low, high = effect.interval(1 - 2 * 0.05)
        assert (effect.p_outside(0.04) <= 0.05) == (low >= -0.04 and high <= 0.04)


@pytest.mark.parametrize("number", [BOOTSTRAP_FROM - 1, BOOTSTRAP_FROM])
def test_the_bootstrap_begins_with_twenty_starts(number: int) -> None:
    values = normal(4, 0.0, 0.05, number)
    has_bootstrap = number >= BOOTSTRAP_FROM
    assert paired_effect(values).method == ("paired bootstrap" if has_bootstrap else "paired t")
    assert unpaired_effect(values, values).method == ("unpaired bootstrap" if has_bootstrap else "Welch t")


def test_of_normal_values_the_bootstrap_says_nearly_what_the_t_test_says() -> None:
    values = normal(5, 0.02, 0.05, 30)
    bootstrapped, known = paired_effect(values), stats.ttest_1samp(values, 0.0)
    assert bootstrapped.p_equal() == pytest.approx(known.pvalue, abs=0.02)
    assert bootstrapped.interval(0.95) == pytest.approx(tuple(known.confidence_interval(0.95)), abs=0.003)


def test_a_bootstrap_repeats_and_its_p_is_never_0() -> None:
    values = normal(6, 1.0, 0.01, 25)
    assert paired_effect(values).interval(0.95) == paired_effect(values).interval(0.95)
    assert paired_effect(values, num_resamples=999).p_equal() == pytest.approx(1 / 1000)


@given(
    st.lists(st.floats(-1, 1), min_size=3, max_size=40),
    st.floats(-1, 1),
    st.sampled_from([0.5, 0.9, 0.95, 0.99, 1 - 0.05 / 21]),
)
def test_an_interval_holds_what_its_test_does_not_reject(values, value, confidence) -> None:
    effect = paired_effect(values, num_resamples=999)
    low, high = effect.interval(confidence)
    if min(abs(value - low), abs(value - high)) > 1e-6 * (1 + abs(high - low)):
        assert (low < value < high) == (effect.p_equal(value) > 1 - confidence)


def test_values_without_any_scatter_tell_a_difference_and_an_equality() -> None:
    assert paired_effect([0.1] * 4).p_equal() < 1e-6
    assert paired_effect([0.0] * 4).p_equal() == 1.0
    assert paired_effect([1e-17] * 4).p_outside(0.05) < 1e-6


@pytest.mark.parametrize("number", [3, 10, 20])
def test_of_equal_sides_at_most_one_in_twenty_is_found_different(number: int) -> None:
    rng = np.random.default_rng(number)
    num_trials = 1000
    effects = (paired_effect(list(rng.normal(0, 0.05, number)), num_resamples=1999) for _ in range(num_trials))
    found = sum(effect.p_equal() <= 0.05 for effect in effects)
    assert found <= stats.binom.ppf(0.999, num_trials, 0.05)
    assert found >= stats.binom.ppf(0.001, num_trials, 0.05), "nor far fewer: that would be power thrown away"
