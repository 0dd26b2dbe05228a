"""The Prometheus exposition text of a server, as a lookup: values summed over label sets, histograms cumulative."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from prometheus_client.parser import text_string_to_metric_families

from enginebay.errors import UpstreamError
from enginebay.types import HistogramSnapshot

NO_LABELS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Sample:
    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True)
class MetricsText:
    """All samples by their full names (`..._total`, `..._bucket`)."""

    samples: Mapping[str, tuple[Sample, ...]]

    def __contains__(self, name: str) -> bool:
        return name in self.samples

    def matching(self, name: str, labels: Mapping[str, str] = NO_LABELS) -> Iterator[Sample]:
        """The samples that have at least these labels."""
        for sample in self.samples.get(name, ()):
            if labels.items() <= sample.labels.items():
                yield sample

    def value(self, name: str, labels: Mapping[str, str] = NO_LABELS) -> float | None:
        """The sum over the label sets that match; None when there is none, which is not zero."""
        values = [sample.value for sample in self.matching(name, labels)]
        return math.fsum(values) if values else None

    def by_label(
        self, name: str, label: str, labels: Mapping[str, str] = NO_LABELS
    ) -> Mapping[str, float] | None:  # fmt: skip
        """The sum for each value of `label`; None when the metric is absent."""
        sums: dict[str, float] = {}
        for sample in self.matching(name, labels):
            if label in sample.labels:
                sums[sample.labels[label]] = sums.get(sample.labels[label], 0.0) + sample.value
        return sums or None

    def histogram(self, name: str, labels: Mapping[str, str] = NO_LABELS) -> HistogramSnapshot | None:
        """name: without `_bucket`. None when it is absent. Label sets are summed; they must have the same buckets."""
        counts: dict[float, float] = {}
        num_series: dict[float, int] = {}
        for sample in self.matching(f"{name}_bucket", labels):
            bound = float(sample.labels["le"])
            counts[bound] = counts.get(bound, 0.0) + sample.value
            num_series[bound] = num_series.get(bound, 0) + 1
        if not counts:
            return None
        if len(set(num_series.values())) > 1:
            raise UpstreamError(f"the histogram {name} has different buckets in different label sets: give a label")
        bounds = tuple(sorted(counts))
        return HistogramSnapshot(
            bounds, tuple(counts[bound] for bound in bounds), self.value(f"{name}_sum", labels) or 0.0
        )


def parse_metrics(text: str) -> MetricsText:
    """Raises UpstreamError when this is no exposition text."""
    samples: dict[str, list[Sample]] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append(Sample(sample.labels, sample.value))
    except (ValueError, KeyError, IndexError) as error:
        raise UpstreamError(f"the server's metrics are no Prometheus text: {error}") from error
    return MetricsText({name: tuple(found) for name, found in samples.items()})
