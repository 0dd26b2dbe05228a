"""Writes Prometheus exposition text under whatever names and habits an engine has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from enginebay.quantities import SIMULATED_METRIC
from enginebay.testing.simulators.engine_metrics import Histogram

Labels = Mapping[str, str]


class Exposition:
    """text = Exposition({"model_name": "m"})
    text.gauge("vllm:num_requests_running", 3)
    text.counter("vllm:num_preemptions_total", 0)
    str(text)                          # ends with `enginebay_simulated 1`
    """

    def __init__(self, labels: Labels | None = None, *, created_at: float | None = None) -> None:
        """labels: of every sample. created_at (Unix seconds): write `_created` series, as prometheus_client does."""
        self._labels = dict(labels or {})
        self._created_at = created_at
        self._lines: list[str] = []

    def gauge(self, name: str, value: float, *, help_text: str = "") -> None:
        self.family(name, "gauge", [({}, value)], help_text=help_text)

    def counter(self, name: str, value: float, *, help_text: str = "") -> None:
        """name: in full, with `_total` where the engine has it."""
        self.counters(name, [({}, value)], help_text=help_text)

    def counters(self, name: str, samples: Iterable[tuple[Labels, float]], *, help_text: str = "") -> None:
        """One family with several label sets."""
        samples = list(samples)
        self.family(name, "counter", samples, help_text=help_text)
        self._created(name.removesuffix("_total"), [labels for labels, _ in samples])

    def family(
        self, name: str, kind: str, samples: Iterable[tuple[Labels, float]], *, help_text: str = ""
    ) -> None:  # fmt: skip
        self._head(name, kind, help_text)
        for labels, value in samples:
            self._sample(name, labels, value)

    def histogram(self, name: str, histogram: Histogram, labels: Labels | None = None, *, help_text: str = "") -> None:
        self._head(name, "histogram", help_text)
        own, cumulative = labels or {}, 0
        for bound, count in zip((*histogram.bounds, None), histogram.counts, strict=True):
            cumulative += count
            le = "+Inf" if bound is None else repr(float(bound))
            self._sample(f"{name}_bucket", {**own, "le": le}, cumulative)
        self._sample(f"{name}_count", own, cumulative)
        self._sample(f"{name}_sum", own, histogram.sum)
        self._created(name, [own])

    def raw(self, line: str) -> None:
        self._lines.append(line)

    def __str__(self) -> str:
        ending = f"# TYPE {SIMULATED_METRIC} gauge\n{SIMULATED_METRIC} 1\n"
        return "".join(f"{line}\n" for line in self._lines) + ending

    def _head(self, name: str, kind: str, help_text: str) -> None:
        if help_text:
            self._lines.append(f"# HELP {name} {help_text}")
        self._lines.append(f"# TYPE {name} {kind}")

    def _created(self, name: str, label_sets: Iterable[Labels]) -> None:
        if self._created_at is None:
            return
        self._lines.append(f"# TYPE {name}_created gauge")
        for labels in label_sets:
            self._sample(f"{name}_created", labels, self._created_at)

    def _sample(self, name: str, labels: Labels, value: float) -> None:
        every = {**self._labels, **labels}
        inside = ",".join(f'{key}="{_escaped(every[key])}"' for key in sorted(every))
        self._lines.append(f"{name}{{{inside}}} {float(value)!r}" if inside else f"{name} {float(value)!r}")


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
