"""The Prometheus exposition text of a server, as a lookup: values summed over label sets, histograms cumulative.

It is read while load is measured, and vLLM's has some 1,500 lines: prometheus_client's parser takes 30 ms for them, in
which the event loop stands still. Here only the samples that are asked for are parsed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

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
    """Raises UpstreamError when this is no exposition text; for malformed labels or values, when they are asked for.

    A counter has `_total` at the end of its name, whether or not the server writes it.
    """
    lines: dict[str, list[str]] = {}
    short_counters: set[str] = set()
    for line in text.split("\n"):
        if line.startswith("#"):
            if (counter := _COUNTER.match(line)) is not None and not counter.group(1).endswith("_total"):
                short_counters.add(counter.group(1))
        elif line and not line.isspace():
            lines.setdefault(_name_of(line, known=lines), []).append(line)
    return MetricsText(_Samples({f"{n}_total" if n in short_counters else n: found for n, found in lines.items()}))


def _name_of(line: str, *, known: Container[str]) -> str:
    """Looks no closer at a line of labels than it must: there are hundreds of each name."""
    name, brace, rest = line.partition("{")
    if brace and name in known and "}" in rest:
        return name
    found = _SAMPLE.match(line)
    if found is None:
        raise _malformed(line)
    return found.group(1)


class _Samples(Mapping[str, tuple[Sample, ...]]):
    """Those of one name are parsed when they are first asked for."""

    def __init__(self, lines: Mapping[str, list[str]]) -> None:
        self._lines = lines
        self._parsed: dict[str, tuple[Sample, ...]] = {}

    def __getitem__(self, name: str) -> tuple[Sample, ...]:
        if name not in self._parsed:
            self._parsed[name] = tuple(map(_sample, self._lines[name]))
        return self._parsed[name]

    def __contains__(self, name: object) -> bool:
        return name in self._lines

    def __iter__(self) -> Iterator[str]:
        return iter(self._lines)

    def __len__(self) -> int:
        return len(self._lines)


_COUNTER = re.compile(r"#[ \t]*TYPE[ \t]+([a-zA-Z_:][a-zA-Z0-9_:]*)[ \t]+counter\s*$")
_SAMPLE = re.compile(
    r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)(?:[ \t]*\{(.*)\}[ \t]*|[ \t]+)([^ \t]+)(?:[ \t]+-?\d+)?\s*$", re.DOTALL
)
_LABEL = re.compile(r'[ \t]*([a-zA-Z_][a-zA-Z0-9_]*)[ \t]*=[ \t]*"((?:[^"\\]|\\.)*)"[ \t]*(?:,|$)[ \t]*', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)")
_ESCAPES = {"n": "\n", "\\": "\\", '"': '"'}


def _sample(line: str) -> Sample:
    found = _SAMPLE.match(line)
    if found is None:
        raise _malformed(line)
    _, labels, value = found.groups()
    try:
        return Sample(_labels(labels) if labels else NO_LABELS, float(value))
    except ValueError:
        raise _malformed(line) from None


def _labels(text: str) -> Mapping[str, str]:
    """Raises ValueError."""
    labels: dict[str, str] = {}
    position = 0
    while position < len(text):
        found = _LABEL.match(text, position)
        if found is None:
            raise ValueError(text)
        name, value = found.groups()
        labels[name] = value if "\\" not in value else _ESCAPED.sub(_unescaped, value)
        position = found.end()
    return labels


def _unescaped(escape: re.Match[str]) -> str:
    """What is no escape of the format stays as it is."""
    return _ESCAPES.get(escape.group(1), escape.group(0))


def _malformed(line: str) -> UpstreamError:
    return UpstreamError(f"the server's metrics are no Prometheus text: {line[:100]!r}")
