"""A reason not to believe a run, or a comparison of runs: a code that stays, a bound that is stated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enginebay.loadtest.result import InvalidReason
from enginebay.loadtest.validity.unchecked import Unchecked

Scope = Literal["run", "comparison"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    code: str
    meaning: str
    bound: str
    """In words, with the figures that the check itself uses."""
    remedy: str
    scope: Scope = "run"
    """`comparison`: each side may be valid by itself, but the two cannot be set against each other."""

    def found(self, detail: str) -> InvalidReason:
        return InvalidReason(code=self.code, detail=detail)

    def not_looked(self, why: str) -> Unchecked:
        """The check had nothing to look at: the run may be valid, and this stands beside it."""
        return Unchecked(code=self.code, why=why)


Finding = InvalidReason | Unchecked
