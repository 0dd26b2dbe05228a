from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enginebay.statistics.holm import holm


def test_the_example_that_textbooks_give() -> None:
    # Holm: 0.005 <= 0.05/4, 0.01 <= 0.05/3, then 0.03 > 0.05/2 stops; 0.04 stands although 0.04 <= 0.05/1.
    tested = holm([0.01, 0.04, 0.03, 0.005], level=0.05)
    assert [item.is_rejected for item in tested] == [True, False, False, True]
    assert [item.adjusted_p for item in tested] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [item.level for item in tested] == pytest.approx([0.05 / 3, 0.025, 0.025, 0.0125])


def test_no_hypothesis_is_no_problem() -> None:
    assert holm([], level=0.05) == []


def closed_by_bonferroni(p_values: list[float], level: float) -> list[bool]:
    """The closure principle, by force: rejected where every set that contains it is rejected by Bonferroni."""
    numbers = range(len(p_values))
    sets = [group for size in range(1, len(p_values) + 1) for group in combinations(numbers, size)]
    is_rejected = {group: min(p_values[number] for number in group) <= level / len(group) for group in sets}
    return [all(is_rejected[group] for group in sets if number in group) for number in numbers]


@given(st.lists(st.floats(0, 0.2), min_size=1, max_size=6))
def test_it_rejects_what_the_closure_of_bonferronis_test_rejects(p_values) -> None:
    tested = holm(p_values, level=0.05)
    assert [item.is_rejected for item in tested] == closed_by_bonferroni(p_values, 0.05)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_its_level_and_its_adjusted_p_say_the_same(p_values) -> None:
    for p, item in zip(p_values, holm(p_values, level=0.05), strict=True):
        assert item.is_rejected == (p <= item.level)
        if abs(item.adjusted_p - 0.05) > 1e-12:
            assert item.is_rejected == (item.adjusted_p <= 0.05)
