"""What `/metrics` tells of what is under way in the gateway itself: all of it is 0 again when nobody asks anything."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from enginebay.gateway.open_requests import OpenRequests


class OpenCollector(Collector):
    def __init__(self, open_requests: OpenRequests, reserved: Callable[[], Mapping[str, int] | None]) -> None:
        """reserved: by measure, what running requests hold of their limits; None where it is not held here."""
        self._open_requests, self._reserved = open_requests, reserved

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(
            "enginebay_open_requests",
            "HTTP requests that are being answered; the one that asks for this is one of them",
            value=self._open_requests.num_open,
        )
        yield GaugeMetricFamily(
            "enginebay_tasks",
            "Tasks of the event loop: a few for each connection and replica, and no more with time",
            value=len(asyncio.all_tasks()),
        )
        reserved = self._reserved()
        if reserved is None:
            return
        family = GaugeMetricFamily(
            "enginebay_limits_reserved",
            "What running requests hold of the limits of keys and addresses, in all accounts together",
            labels=("measure",),
        )
        for measure, amount in reserved.items():
            family.add_metric([measure], amount)
        yield family
