"""What `/metrics` tells of pools and replicas, beside what each engine tells itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from enginebay.gateway.models.catalog import Catalog, ModelVersion
from enginebay.gateway.replicas import OwnedReplica

_REPLICA = ("replica",)
_POOL = ("model", "version")


class CatalogCollector(Collector):
    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog

    def collect(self) -> Iterator[Metric]:
        yield from self._replicas(self._catalog.content.replicas)
        versions = [one for alias in self._catalog.content.aliases.values() for one in alias.versions.values()]
        for name, meaning, value in _GAUGES:
            yield _of_pools(GaugeMetricFamily(f"enginebay_pool_{name}", meaning, labels=_POOL), versions, value)
        for name, meaning, value in _COUNTERS:
            yield _of_pools(CounterMetricFamily(f"enginebay_pool_{name}", meaning, labels=_POOL), versions, value)

    def _replicas(self, replicas: Mapping[str, OwnedReplica]) -> Iterator[Metric]:
        available = GaugeMetricFamily(
            "enginebay_replica_available",
            "1 while requests may be sent to it: ready, healthy, its circuit closed, and not resting",
            labels=_REPLICA,
        )
        breaker = GaugeMetricFamily(
            "enginebay_replica_circuit_open", "1 while its circuit breaker is not closed", labels=_REPLICA
        )
        starts = CounterMetricFamily("enginebay_replica_starts", "How often its engine was started", labels=_REPLICA)
        for name, owned in replicas.items():
            available.add_metric([name], owned.replica.is_available())
            breaker.add_metric([name], owned.replica.breaker.open_until is not None)
            starts.add_metric([name], owned.num_starts)
        yield from (available, breaker, starts)


Value = Callable[[ModelVersion], float]
_GAUGES: tuple[tuple[str, str, Value], ...] = (
    ("inside", "Requests that were let in to the engines", lambda version: version.pool.admission.num_inside),
    ("waiting", "Requests that wait to be let in", lambda version: version.pool.admission.num_waiting),
)
_COUNTERS: tuple[tuple[str, str, Value], ...] = (
    ("refused", "Requests that the queue had no place for", lambda version: version.pool.admission.num_refused),
    ("retries", "Attempts made again before the first token", lambda version: version.pool.attempts.num_retries),
    ("failovers", "Streams that went on in another replica", lambda version: version.pool.attempts.num_failovers),
    ("fallbacks", "Requests that another model was asked to answer", lambda version: version.pool.num_fallbacks),
)


def _of_pools(family: Metric, versions: list[ModelVersion], value: Value) -> Metric:
    for version in versions:
        family.add_sample(_sample_name(family), {"model": version.name, "version": version.version}, value(version))
    return family


def _sample_name(family: Metric) -> str:
    return f"{family.name}_total" if family.type == "counter" else family.name
