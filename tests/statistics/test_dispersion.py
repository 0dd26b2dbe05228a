import pytest

from enginebay.statistics.dispersion import (
    coefficient_of_variation,
    counts_per_window,
    gaps_between,
    index_of_dispersion,
    lag_1_autocorrelation,
)


def test_gaps_are_differences_of_neighbours() -> None:
    assert gaps_between([1.0, 1.5, 4.0]) == [0.5, 2.5]
    assert gaps_between([1.0]) == []


def test_windows_count_what_falls_into_them_and_drop_the_unfinished_one() -> None:
    assert counts_per_window([0.0, 0.1, 0.9, 1.0, 2.5], window_s=1.0) == [3, 1]


def test_dispersion_is_0_for_equal_counts_and_the_variance_over_the_mean_else() -> None:
    assert index_of_dispersion([4, 4, 4, 4]) == 0.0
    assert index_of_dispersion([0, 4]) == pytest.approx(8 / 2)  # variance ((0-2)^2 + (4-2)^2) / 1 = 8, mean 2


def test_equal_gaps_do_not_vary_and_the_variation_of_1_and_3_is_known() -> None:
    assert coefficient_of_variation([2.0, 2.0, 2.0]) == 0.0
    assert coefficient_of_variation([1.0, 3.0]) == pytest.approx(2**0.5 / 2)


def test_autocorrelation_of_an_alternating_series_is_minus_n_minus_1_over_n() -> None:
    assert lag_1_autocorrelation([1.0, -1.0] * 5) == pytest.approx(-9 / 10)


def test_autocorrelation_of_a_linear_ramp_has_a_closed_form() -> None:
    # 1..5 centred is -2..2: (2 + 0 + 0 + 2) / (4 + 1 + 0 + 1 + 4)
    assert lag_1_autocorrelation([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(0.4)


def test_a_constant_series_has_no_memory() -> None:
    assert lag_1_autocorrelation([2.0] * 4) == 0.0


@pytest.mark.parametrize(
    ("function", "values"),
    [
        (index_of_dispersion, [1.0]),
        (index_of_dispersion, [0.0, 0.0]),
        (coefficient_of_variation, [1.0]),
        (coefficient_of_variation, [-1.0, 1.0]),
        (lag_1_autocorrelation, [1.0, 2.0]),
    ],
)
def test_what_has_no_answer_is_refused(function, values) -> None:
    with pytest.raises(ValueError):
        function(values)
