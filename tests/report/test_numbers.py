import pytest

from enginebay.report.numbers import count, duration, number, share, size, times

SPACE = "\N{NARROW NO-BREAK SPACE}"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, "–"), (0, "0"), (0.01234, "0.0123"), (1.234, "1.23"), (45.67, "45.7"), (99.96, "100"), (123.4, "123"),
     (12345.6, f"12{SPACE}346"), (-1.5, "−1.50")],
)  # fmt: skip
def test_numbers_have_three_significant_figures(value, shown) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(
    ("value_s", "shown"),
    [(None, "–"), (0.0, "0 s"), (0.0123, "12.3 ms"), (0.275, "275 ms"),
     (0.9999, "1.00 s"), (3.42, "3.42 s"), (86.6, "86.6 s")],
)  # fmt: skip
def test_durations_are_milliseconds_below_one_second(value_s, shown) -> None:
    assert duration(value_s) == shown.replace(" ", SPACE)


@pytest.mark.parametrize(
    ("ratio", "shown"), [(None, "–"), (0.0, "0 %"), (0.004, "0.4 %"), (0.412, "41 %"), (1.0, "100 %")]
)
def test_shares_are_per_cent(ratio, shown) -> None:
    assert share(ratio) == shown.replace(" ", SPACE)


def test_ratios_sizes_and_counts() -> None:
    assert [times(value) for value in (None, 7.523, 0.31, 0.00314)] == ["–", "7.52×", "0.310×", "0.0031×"]
    assert size(8 * 2**30) == f"8.0{SPACE}GiB"
    assert count(1965) == f"1{SPACE}965"
