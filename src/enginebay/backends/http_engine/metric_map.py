"""From an engine's own metric names to the quantities that all engines share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from enginebay.quantities import PROCESS_START_SERIES
from enginebay.types import EngineStats, HistogramSnapshot
from enginebay.wire.prometheus_text import MetricsText

Derived = Callable[[MetricsText], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricMap:
    """Field of `EngineStats` -> the engine's series. What the engine does not publish is absent here, and None there.

    Names are full ones (`..._total`); those of histograms are without `_bucket`.
    """

    values: Mapping[str, str] = field(default_factory=dict[str, str])
    """Gauges and counters, summed over their label sets."""
    histograms: Mapping[str, str] = field(default_factory=dict[str, str])
    by_label: Mapping[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    """(series, label) of a counter that is split by one."""
    derived: Mapping[str, Derived] = field(default_factory=dict[str, Derived])
    only_when: Mapping[str, str] = field(default_factory=dict[str, str])
    """Series that appear only under a condition, and that condition: their absence is no renaming."""
    extra: tuple[str, ...] = ()
    """Further series to keep in `EngineStats.extra`, by their own names."""

    def stats(self, metrics: MetricsText) -> EngineStats:
        found: dict[str, float | HistogramSnapshot | Mapping[str, float] | None] = {}
        found |= {quantity: metrics.value(series) for quantity, series in self.values.items()}
        found |= {quantity: metrics.histogram(series) for quantity, series in self.histograms.items()}
        found |= {quantity: metrics.by_label(series, label) for quantity, (series, label) in self.by_label.items()}
        found |= {quantity: derive(metrics) for quantity, derive in self.derived.items()}
        kept = (*self.extra, PROCESS_START_SERIES)
        extra = {series: value for series in kept if (value := metrics.value(series)) is not None}
        return EngineStats(**found, extra=extra)  # pyright: ignore[reportArgumentType] - the keys are its fields

    def missing(self, metrics: MetricsText) -> list[str]:
        """Series that this map reads and the exposition lacks: a renamed metric, or one that was switched off."""
        buckets = [f"{series}_bucket" for series in self.histograms.values()]
        split = [series for series, _ in self.by_label.values()]
        wanted = [*self.values.values(), *split, *buckets]
        conditional = {*self.only_when, *(f"{series}_bucket" for series in self.only_when)}
        return sorted({name for name in wanted if name not in metrics and name not in conditional})
