"""What `/metrics` tells of the ledger."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from enginebay.gateway.ledger.journal import Journal
from enginebay.gateway.ledger.writer import LedgerWriter


class LedgerCollector(Collector):
    def __init__(self, journal: Journal, writer: LedgerWriter) -> None:
        self._journal, self._writer = journal, writer

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "enginebay_ledger_up",
            "1 while the ledger's database takes entries, else 0: they wait in the journal",
            value=self._writer.is_storing,
        )
        yield GaugeMetricFamily(
            "enginebay_ledger_waiting_entries",
            "Entries of this process that are not in the database yet",
            value=self._writer.num_waiting,
        )
        yield GaugeMetricFamily(
            "enginebay_ledger_unwritten_entries",
            "Entries that are in memory alone, since the journal cannot be written",
            value=self._journal.num_kept,
        )
        yield CounterMetricFamily(
            "enginebay_ledger_lost_entries",
            "Entries that were lost, since neither the journal nor memory had room",
            value=self._journal.num_lost,
        )
