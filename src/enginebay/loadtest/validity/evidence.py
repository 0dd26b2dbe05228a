"""What the checks of a run look at. Gathered when nothing is measured any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from enginebay.loadtest.client_health import ClientHealth
from enginebay.loadtest.metrics import Metrics
from enginebay.loadtest.plan import PlannedLoad, PlannedRequest
from enginebay.loadtest.records import Record
from enginebay.loadtest.result import Status
from enginebay.loadtest.self_check.ceiling import ClientCeiling
from enginebay.loadtest.timeseries import Sample


@dataclass(frozen=True, kw_only=True)
class Evidence:
    planned_load: PlannedLoad
    records: Sequence[Record]
    metrics: Metrics
    status: Status
    client: ClientHealth = field(default_factory=ClientHealth)
    ceiling: ClientCeiling | None = None
    """Of this machine's client; None where nobody has measured it."""
    samples: Sequence[Sample] = ()
    """Of the engine, in order, the readings right before and after the load included."""
    percentiles: Sequence[float] = ()
    """That the load test was asked to tell."""
    configured_settings: Mapping[str, object] = field(default_factory=dict[str, object])
    told_settings: Mapping[str, object] = field(default_factory=dict[str, object])
    """What the engine says that it runs with."""
    losses: Sequence[str] = ()
    """Records that the client's own processes did not hand over, in words."""
    approximated_settings: frozenset[str] = frozenset()
    """Settings that the plan turned into something near them."""

    @cached_property
    def finished(self) -> list[Record]:
        return [record for record in self.records if record.is_finished]

    @cached_property
    def sent_in_order(self) -> list[Record]:
        return sorted(self.records, key=lambda record: (record.sent_at, record.index))

    @cached_property
    def planned(self) -> dict[int, PlannedRequest]:
        """By index."""
        return {planned.index: planned for planned in self.planned_load.requests}
