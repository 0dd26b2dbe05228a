"""Requests that never became a call: what the hooks, and so the ledger, and the metrics hear of them.

Whoever was let in has an outcome, whatever it sent: a call without requests, of no model. Whoever was not is counted
by the error's code alone, as every error is: a flood of wrong keys fills no ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from enginebay.gateway.call import Call, Outcome
from enginebay.gateway.endings import ending_of
from enginebay.gateway.exchange import Exchange
from enginebay.gateway.served import Served


def end_without_call(served: Served, exchange: Exchange, error: BaseException) -> None:
    """To be called before the error is told to the client."""
    call = Call(
        request_id=exchange.request_id,
        client=exchange.client,
        model="",
        requests=(),
        arrived_at=exchange.arrived_at,
        body_bytes=exchange.num_body_bytes,
    )
    kind, code = ending_of(error, has_tokens=False, is_ending=served.is_ending)
    outcome = Outcome(
        kind=kind,
        error_code=code,
        num_prompt_tokens=0,
        num_cached_tokens=None,
        num_output_tokens=0,
        num_unbilled_tokens=0,
        ended_at=served.clock.now(),
    )
    served.hooks.entering().at_end(call, outcome)


class ErrorCollector(Collector):
    """num_by_code: as the server counts them."""

    def __init__(self, num_by_code: Counter[str]) -> None:
        self._num_by_code = num_by_code

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "enginebay_gateway_errors",
            "Requests that were answered with this error; streams that had begun are not among them",
            labels=("code",),
        )
        for code, num in self._num_by_code.items():
            family.add_metric([code], num)
        yield family
