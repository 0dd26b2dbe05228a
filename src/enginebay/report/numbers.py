"""Numbers as people read them: three significant figures, units, a proper minus, nothing where there is nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping

ABSENT = "–"
_NARROW = "\N{NARROW NO-BREAK SPACE}"


def number(value: float | None) -> str:
    """Three significant figures; thousands apart; never an exponent."""
    if value is None:
        return ABSENT
    if value == 0:
        return "0"
    if abs(value) < 1000:
        value = float(f"{value:.3g}")  # first, since 0.9996 is shown as 1.00 and not as 1.000
    decimals = max(0, 2 - math.floor(math.log10(abs(value)))) if abs(value) < 100 else 0
    return f"{value:,.{decimals}f}".replace(",", _NARROW).replace("-", "−")


def count(value: float | None) -> str:
    return ABSENT if value is None else f"{value:,.0f}".replace(",", _NARROW)


def duration(value_s: float | None) -> str:
    """Seconds from one second on, milliseconds below."""
    if value_s is None:
        return ABSENT
    if value_s == 0:
        return f"0{_NARROW}s"
    if abs(value_s) >= 0.9995:
        return f"{number(value_s)}{_NARROW}s"
    return f"{number(value_s * 1000)}{_NARROW}ms"


def share(ratio: float | None) -> str:
    """A fraction of 0 to 1 in per cent; small ones keep a digit."""
    if ratio is None:
        return ABSENT
    percent = ratio * 100
    decimals = 0 if percent >= 10 or percent == 0 else 1
    return f"{percent:.{decimals}f}{_NARROW}%"


def times(ratio: float | None) -> str:
    """How many times as much: 5.24×, 0.31×."""
    if ratio is None:
        return ABSENT
    return f"{ratio:.2g}×" if 0.0001 < ratio < 0.1 else f"{number(ratio)}×"


def size(value_bytes: float) -> str:
    gib = value_bytes / 2**30
    return f"{gib:.0f}{_NARROW}GiB" if gib >= 10 else f"{gib:.1f}{_NARROW}GiB"


def named(settings: Mapping[str, object]) -> str:
    """dtype: bfloat16, max_num_seqs: 16."""
    return ", ".join(f"{name}: {value}" for name, value in settings.items()) or ABSENT
