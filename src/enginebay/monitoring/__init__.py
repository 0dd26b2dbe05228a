"""Metrics of any backend: `instrument` records them, `Exporter` writes them as Prometheus text."""

from enginebay.monitoring.exporter import Exporter
from enginebay.monitoring.instrument import InstrumentedBackend, instrument
from enginebay.monitoring.request_metrics import RequestMetrics

__all__ = ["Exporter", "InstrumentedBackend", "RequestMetrics", "instrument"]
