"""What an earlier search has found out and a later one goes on from: a probe costs minutes, and none is made twice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from enginebay.loadtest.capacity.result import RECORDS, SAMPLES, BackendCapacity, CapacityResult, load_capacity
from enginebay.loadtest.records import RecordLine, read_records
from enginebay.loadtest.result import Failure
from enginebay.loadtest.timeseries import Sample, read_samples

Start = tuple[str, int]
"""Label and start index."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptSearches:
    capacities: Mapping[Start, BackendCapacity] = field(default_factory=dict[Start, BackendCapacity])
    """With all their probes, those of searches that were cut short too."""
    lines: Sequence[RecordLine] = ()
    samples: Sequence[Sample] = ()
    failures: Sequence[Failure] = ()
    num_sessions: int = 0

    @property
    def num_probes(self) -> int:
        return sum(len(capacity.probes) for capacity in self.capacities.values())


def read_kept_searches(folder: Path) -> tuple[CapacityResult, KeptSearches]:
    """Raises LoadTestError for files that cannot be read."""
    result = load_capacity(folder)
    capacities = {(capacity.label, capacity.start_index): capacity for capacity in result.capacities}
    return result, KeptSearches(
        capacities=capacities,
        lines=read_records(folder / RECORDS),
        samples=read_samples(folder / SAMPLES),
        failures=result.failures,
        num_sessions=result.num_sessions,
    )
