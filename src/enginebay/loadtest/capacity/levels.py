"""What has to hold at a rate, and for which share of the requests."""

from __future__ import annotations

import msgspec

from enginebay.errors import LoadTestError
from enginebay.loadtest.metrics import e2e_s, tpot_s, ttft_scheduled_s
from enginebay.loadtest.records import Record

ERRORS = "errors"


class CapacityLevels(msgspec.Struct, frozen=True, kw_only=True):
    """`ttft_s: 0.5` at percentile 95: at most 5 % of all requests may wait longer for their first token, or fail.

    Every level holds for itself. Latencies count from the scheduled instant, so that a client which falls behind
    flatters nobody.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    percentile: float = 95.0
    max_error_ratio: float = 0.01

    def __post_init__(self) -> None:
        if self.ttft_s is None and self.tpot_s is None and self.e2e_s is None:
            raise LoadTestError("a capacity is the highest rate at which a level holds: give ttft_s, tpot_s or e2e_s")
        if not 50 <= self.percentile < 100:
            raise LoadTestError(f"the percentile of a capacity lies from 50 to below 100, not {self.percentile:g}")
        if not 0 < self.max_error_ratio < 1:
            raise LoadTestError(f"max_error_ratio lies between 0 and 1, not {self.max_error_ratio:g}")

    @property
    def allowed_ratios(self) -> dict[str, float]:
        """By the name of each requirement: the share of requests that may miss it."""
        latencies = {"ttft_s": self.ttft_s, "tpot_s": self.tpot_s, "e2e_s": self.e2e_s}
        allowed = {name: 1 - self.percentile / 100 for name, level in latencies.items() if level is not None}
        return {**allowed, ERRORS: self.max_error_ratio}

    @property
    def min_requests(self) -> int:
        """Of one probe: so many that five misses are expected where a latency level is just met."""
        return round(5 / (1 - self.percentile / 100))

    def __str__(self) -> str:
        levels = ((self.ttft_s, "ttft"), (self.tpot_s, "tpot"), (self.e2e_s, "e2e"))
        told = [f"{name} p{self.percentile:g} at most {level:g} s" for level, name in levels if level is not None]
        return ", ".join([*told, f"errors at most {100 * self.max_error_ratio:.3g} %"])


def missed(record: Record, levels: CapacityLevels) -> dict[str, bool]:
    """By requirement. A request that failed missed them all; one output token has no tpot and cannot miss it."""
    if not record.is_finished:
        return dict.fromkeys(levels.allowed_ratios, True)
    measured = {
        "ttft_s": _is_above(ttft_scheduled_s(record), levels.ttft_s, is_absence_miss=True),
        "tpot_s": _is_above(tpot_s(record), levels.tpot_s, is_absence_miss=False),
        "e2e_s": _is_above(_e2e_scheduled_s(record), levels.e2e_s, is_absence_miss=True),
        ERRORS: False,
    }
    return {name: measured[name] for name in levels.allowed_ratios}


def _e2e_scheduled_s(record: Record) -> float | None:
    measured = e2e_s(record)
    return None if measured is None else measured + record.sent_at - record.scheduled_at


def _is_above(value: float | None, level: float | None, *, is_absence_miss: bool) -> bool:
    if level is None:
        return False
    return is_absence_miss if value is None else value > level
