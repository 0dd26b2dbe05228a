"""Two subjects under one load: which of their starts count, and what they measured."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from enginebay.errors import NotComparable
from enginebay.loadtest.plan import Load
from enginebay.loadtest.result import MADE_GOOD, Failure, InvalidReason, Run
from enginebay.loadtest.validity.comparison import SIMULATED, comparison_reasons
from enginebay.verdict.comparison.figures import Figure
from enginebay.verdict.verdict import InvalidRun, Status

FEWEST_STARTS = 3
"""Of each side. Two starts say next to nothing about how much a third would differ."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A backend of a result, with all that was measured of it."""

    name: str
    runs: Sequence[Run]
    failures: Sequence[Failure] = ()

    @cached_property
    def is_simulated(self) -> bool:
        return any(run.simulated for run in self.runs)

    def under(self, load: Load) -> list[Run]:
        return [run for run in self.runs if run.load == load]


Start = Sequence[Run]
"""Runs of one load on one start; several only where the load was repeated on it."""


@dataclass(frozen=True, kw_only=True)
class Contest:
    first: Subject
    second: Subject
    load: Load
    is_paired: bool
    """Whether starts of the same number stood side by side in time."""
    apart: tuple[InvalidReason, ...] = ()
    """What is known from elsewhere to speak against it: a certificate that shows another load."""

    @cached_property
    def status(self) -> Status:
        if self.first.is_simulated or self.second.is_simulated:
            return "simulated"
        if not self.first.under(self.load) or not self.second.under(self.load):
            return "invalid" if self.invalid else "nothing to compare"
        if self.against:
            return "invalid"
        if min(map(len, self.starts)) < FEWEST_STARTS:
            return "invalid" if self.invalid else "too few starts"
        return "judged"

    @cached_property
    def against(self) -> tuple[InvalidReason, ...]:
        """What speaks against setting them side by side, although each run is valid by itself."""
        found = comparison_reasons(self.first.under(self.load), self.second.under(self.load))
        return (*self.apart, *(reason for reason in found if reason.code != SIMULATED.code))  # which is a status

    @cached_property
    def invalid(self) -> tuple[InvalidRun, ...]:
        """Runs and starts of both sides that count for nothing."""
        return tuple(found for side in (self.first, self.second) for found in _invalid(side, self.load))

    def has_invalid(self, side: Subject) -> bool:
        return any(invalid.label == side.name for invalid in self.invalid)

    @cached_property
    def starts(self) -> tuple[Sequence[Start], Sequence[Start]]:
        """That count, of either side; where starts are paired, the same ones of both and in the same order."""
        first, second = _starts(self.first, self.load), _starts(self.second, self.load)
        if not self.is_paired:
            return list(first.values()), list(second.values())
        common = sorted(first.keys() & second.keys())
        return [first[index] for index in common], [second[index] for index in common]

    def logs(self, figure: Figure) -> tuple[list[float], list[float]] | None:
        """Of the figure, one for each start; None where a start of either side does not have it."""
        sides = [[_log(start, figure) for start in side] for side in self.starts]
        first, second = ([value for value in side if value is not None] for side in sides)
        is_complete = (len(first), len(second)) == tuple(map(len, sides)) and first and second
        return (first, second) if is_complete else None

    def demand_one_transport(self) -> None:
        """Raise NotComparable where the sides were reached in different ways."""
        ways = [{run.transport for run in side.under(self.load)} for side in (self.first, self.second)]
        if len(ways[0] | ways[1]) > 1:
            raise NotComparable(
                f"{self.first.name} was reached over {', '.join(sorted(ways[0]))}, {self.second.name} over "
                f"{', '.join(sorted(ways[1]))}: runs of different transports are not compared"
            )


def _starts(side: Subject, load: Load) -> Mapping[int, Start]:
    """By number; a start counts when all its runs of the load do."""
    by_number: dict[int, list[Run]] = defaultdict(list)
    for run in side.under(load):
        by_number[run.start_index].append(run)
    return {number: runs for number, runs in sorted(by_number.items()) if all(map(_counts, runs))}


def _counts(run: Run) -> bool:
    return run.valid and run.status == "complete"


def _invalid(side: Subject, load: Load) -> Iterator[InvalidRun]:
    for run in side.under(load):
        if not _counts(run):
            reasons = tuple(run.invalid_reasons) or (InvalidReason(code="partial", detail="it was not finished"),)
            yield InvalidRun(label=side.name, load=load, start_index=run.start_index, reasons=reasons)
    for failure in side.failures:
        if failure.load in (None, load):
            message = failure.message.partition("\n")[0] + (MADE_GOOD if failure.is_made_good else "")
            reason = InvalidReason(code="failed", detail=f"{failure.error_class}: {message}")
            yield InvalidRun(label=side.name, load=failure.load, start_index=failure.start_index, reasons=(reason,))


def _log(start: Start, figure: Figure) -> float | None:
    """Mean over the runs of one start, which is the unit however often a load was repeated on it."""
    values = [figure.value(run.metrics) for run in start]
    logs = [math.log(value) for value in values if value is not None]
    return sum(logs) / len(logs) if len(logs) == len(values) else None
