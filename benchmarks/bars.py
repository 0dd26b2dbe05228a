"""What a benchmark must reach, and what it has reached, as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    name: str
    measured: float | None
    """None: there was nothing to measure, and the bar is missed."""
    limit: float
    kind: Literal["at least", "at most"]
    is_stretch: bool = False
    """Wished for: no failure where it is missed."""

    @property
    def is_met(self) -> bool:
        if self.measured is None:
            return False
        return self.measured >= self.limit if self.kind == "at least" else self.measured <= self.limit

    def __str__(self) -> str:
        verdict = "met" if self.is_met else "missed"
        wish = ", stretch" if self.is_stretch else ""
        measured = "nothing" if self.measured is None else f"{self.measured:.6g}"
        return f"{self.name:58} {measured:>12}  {self.kind} {self.limit:g}: {verdict}{wish}"


def as_json(bars: Sequence[Bar]) -> list[dict[str, Any]]:
    return [
        {
            "name": bar.name, "measured": bar.measured, "kind": bar.kind, "limit": bar.limit,
            "is_met": bar.is_met, "is_stretch": bar.is_stretch,
        }
        for bar in bars
    ]  # fmt: skip


def exit_code(bars: Sequence[Bar]) -> int:
    """Prints them. 1 where one is missed that is no stretch."""
    for bar in bars:
        print(bar)
    return 0 if all(bar.is_met or bar.is_stretch for bar in bars) else 1
