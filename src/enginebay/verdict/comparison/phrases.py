"""Figures as a sentence says them."""

from __future__ import annotations

from collections.abc import Sequence

from enginebay.verdict.verdict import MetricVerdict


def change(ratio: float) -> str:
    """+12 %, −31 %; from twice or half on, 2.1 times, 0.43 times."""
    return f"{_bare(ratio)}{_unit(ratio)}"


def changed(verdict: MetricVerdict, title: str) -> str:
    """output tokens per second +12 % (+8.1 to +16 %)."""
    if verdict.ratio is None:
        return title
    if verdict.interval is None:
        return f"{title} {change(verdict.ratio)}"
    return f"{title} {change(verdict.ratio)} ({between(verdict.interval.low, verdict.interval.high)})"


def between(low: float, high: float) -> str:
    """Both ends in one unit, told once."""
    if _TIMES in (_unit(low), _unit(high)):
        return f"{_significant(low)} to {_significant(high)}{_TIMES}"
    return f"{_bare(low)} to {change(high)}"


def _bare(ratio: float) -> str:
    if _unit(ratio) == _TIMES:
        return _significant(ratio)
    percent = (ratio - 1) * 100
    return f"{percent:+.{0 if abs(percent) >= 9.95 else 1}f}".replace("-", "−")


_TIMES, _PERCENT = " times", " %"


def _unit(ratio: float) -> str:
    return _PERCENT if 0.5 < ratio < 2 else _TIMES


def seconds(value_s: float) -> str:
    if value_s >= 0.9995:
        return f"{_significant(value_s)} s"
    return f"{_significant(value_s * 1000)} ms"


def number(value: float) -> str:
    return _significant(value)


def share(ratio: float) -> str:
    return f"{ratio * 100:.{0 if ratio >= 0.0995 or ratio == 0 else 1}f} %"


def listed(words: Sequence[str]) -> str:
    """a, b and c."""
    return "".join(words) if len(words) < 2 else f"{', '.join(words[:-1])} and {words[-1]}"


def starts(number: int) -> str:
    return f"{number} more start{'' if number == 1 else 's'} of each"


def _significant(value: float) -> str:
    """Three figures, no exponent."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:.0f}" if abs(rounded) >= 100 else f"{rounded:.3g}"
