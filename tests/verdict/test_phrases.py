import pytest

from enginebay.verdict.comparison.phrases import between, change, listed, seconds, share


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (1.12, "+12 %"),
        (1.034, "+3.4 %"),
        (0.69, "−31 %"),
        (1.0, "+0.0 %"),
        (2.1, "2.1 times"),
        (0.43, "0.43 times"),
        (131.4, "131 times"),
    ],
)
def test_a_ratio_is_a_share_up_to_twice_and_down_to_half(ratio, words) -> None:
    assert change(ratio) == words


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [(1.081, 1.16, "+8.1 to +16 %"), (1.31, 31.3, "1.31 to 31.3 times"), (0.0584, 0.65, "0.0584 to 0.65 times")],
)
def test_an_interval_has_one_unit(low, high, words) -> None:
    assert between(low, high) == words


def test_times_and_shares_are_short() -> None:
    assert [seconds(value) for value in (0.0121, 0.35, 1.2, 14.58, 0.9996)] == [
        "12.1 ms", "350 ms", "1.2 s", "14.6 s", "1 s",
    ]  # fmt: skip
    assert [share(ratio) for ratio in (0.0, 0.4, 0.023)] == ["0 %", "40 %", "2.3 %"]
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
