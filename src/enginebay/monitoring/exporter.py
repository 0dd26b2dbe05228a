"""Prometheus text of the metric catalogue, for any backend.

Requests are counted as they pass (`RequestMetrics`); what only the engine knows comes from `backend.stats()`.
A quantity that the engine does not tell is absent, never zero.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from enginebay import quantities
from enginebay.backend import Backend
from enginebay.errors import EngineBayError
from enginebay.monitoring.request_metrics import RequestMetrics
from enginebay.quantities import Quantity
from enginebay.types import BackendInfo, EngineStats, HistogramSnapshot

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATS_TIMEOUT_S = 2.0

_BY_NAME = {quantity.prometheus_name: quantity for quantity in quantities.CATALOGUE}
Value = float | HistogramSnapshot | Mapping[str, float]


class Exporter:
    """Writes one backend's metrics, in a registry of its own."""

    def __init__(self, backend: Backend, metrics: RequestMetrics, *, replica: str = "0") -> None:
        self._backend = backend
        self._metrics = metrics
        self._replica = replica

    async def text(self) -> bytes:
        """Answers within STATS_TIMEOUT_S, also while the engine is loading, stuck or dead."""
        return await text_of_all([self])

    async def snapshot(self) -> Collector:
        """The values of this moment; within STATS_TIMEOUT_S."""
        stats = await self._engine_stats()
        return _Snapshot(self._backend.info, self._replica, _values(self._metrics, stats))

    async def _engine_stats(self) -> EngineStats | None:
        try:
            async with asyncio.timeout(STATS_TIMEOUT_S):
                return await self._backend.stats()
        except (EngineBayError, TimeoutError):
            return None  # told by enginebay_engine_stats_up 0


async def text_of_all(exporters: Sequence[Exporter], others: Sequence[Collector] = ()) -> bytes:
    """Several replicas in one text, each metric once with the samples of all of them. others: further metrics."""
    snapshots = await asyncio.gather(*(exporter.snapshot() for exporter in exporters))
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Together([*snapshots, *others]))
    return generate_latest(registry)


class _Together(Collector):
    def __init__(self, collectors: Sequence[Collector]) -> None:
        self._collectors = collectors

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for collector in self._collectors:
            for family in collector.collect():
                known = families.setdefault(family.name, family)
                if known is not family and family.name != quantities.SIMULATED_METRIC:
                    known.samples += family.samples
        yield from families.values()


def _values(metrics: RequestMetrics, stats: EngineStats | None) -> dict[str, Value | None]:
    values: dict[Quantity, Value | None] = {
        quantities.REQUESTS: metrics.num_requests_by_outcome,
        quantities.REQUESTS_IN_FLIGHT: metrics.num_in_flight,
        quantities.REQUEST_LATENCY: metrics.request_latency_s.snapshot(),
        quantities.TIME_TO_FIRST_TOKEN: metrics.ttft_s.snapshot(),
        quantities.INTER_TOKEN_LATENCY: metrics.itl_s.snapshot(),
        quantities.TOKENS_GENERATED: metrics.num_output_tokens,
        quantities.PROMPT_TOKENS: metrics.num_prompt_tokens,
        quantities.TOKENS_PER_SECOND: metrics.output_tokens_per_s,
        quantities.STATS_UP: 0.0 if stats is None else 1.0,
    }
    if stats is not None:
        values |= _engine_values(stats)
    named = {quantity.prometheus_name: value for quantity, value in values.items()}
    return named if stats is None else {**stats.extra, **named}


def _engine_values(stats: EngineStats) -> dict[Quantity, Value | None]:
    return {
        quantities.QUEUE_TIME: stats.queue_seconds,
        quantities.BATCH_SIZE: stats.batch_size,
        quantities.QUEUE_DEPTH: stats.requests_waiting,
        quantities.KV_CACHE_USAGE: stats.kv_cache_usage_ratio,
        quantities.GPU_MEMORY: stats.gpu_memory_bytes,
        quantities.PREEMPTIONS: stats.preemptions_total,
        quantities.PREFIX_CACHE_QUERIES: stats.prefix_cache_queries_total,
        quantities.PREFIX_CACHE_HITS: stats.prefix_cache_hits_total,
    }


class _Snapshot(Collector):
    """The values of one scrape as metric families."""

    def __init__(self, info: BackendInfo, replica: str, values: Mapping[str, Value | None]) -> None:
        self._labels = (info.name, info.model, replica)
        self._is_simulated = info.simulated
        self._values = values

    def collect(self) -> Iterator[Metric]:
        for name, value in self._values.items():
            if value is not None:
                yield self._family(_BY_NAME.get(name) or _unlisted(name), value)
        if self._is_simulated:
            yield GaugeMetricFamily(quantities.SIMULATED_METRIC, "The answers are made up", value=1)

    def _family(self, quantity: Quantity, value: Value) -> Metric:
        name, help_text = quantity.prometheus_name, quantity.meaning
        if isinstance(value, HistogramSnapshot):
            histogram = HistogramMetricFamily(name, help_text, labels=quantity.labels)
            histogram.add_metric(self._labels, _buckets(value), value.sum)
            return histogram
        kind = CounterMetricFamily if quantity.type == "counter" else GaugeMetricFamily
        family = kind(name, help_text, labels=quantity.labels)
        if isinstance(value, Mapping):
            for last_label, count in sorted(value.items()):
                family.add_metric((*self._labels, last_label), count)
        else:
            family.add_metric(self._labels, value)
        return family


def _buckets(snapshot: HistogramSnapshot) -> list[tuple[str, float]]:
    return [
        ("+Inf" if math.isinf(bound) else str(bound), count)
        for bound, count in zip(snapshot.bounds, snapshot.counts, strict=True)
    ]


def _unlisted(name: str) -> Quantity:
    """A counter that only this engine has, under its own name."""
    kind = "counter" if name.endswith("_total") else "gauge"
    return Quantity(name, kind, "", "The engine's own figure")
