"""Requests that were not answered: the run was stopped, or too many failed."""

from __future__ import annotations

from collections.abc import Iterator

from enginebay.loadtest.validity.evidence import Evidence
from enginebay.loadtest.validity.reason import Finding, Reason

MAX_ERROR_RATIO = 0.01

PARTIAL = Reason(
    code="partial",
    meaning="The run ended before all of its requests were answered.",
    bound="every planned request is answered or has failed",
    remedy="Measure again, or go on with `enginebay bench --resume`.",
)
RECORDS_LOST = Reason(
    code="records_lost",
    meaning="A process of the client ended before it had told all that it measured: nobody knows how those requests "
    "fared.",
    bound="every client process hands over every record; it is waited for as long as it tells that it goes on",
    remedy="Look at the memory and the processors of the client's machine, and measure again.",
)
ERRORS = Reason(
    code="errors",
    meaning="Too many requests failed: an engine that refuses work looks fast.",
    bound=f"at most {MAX_ERROR_RATIO:.0%} of the requests fail",
    remedy="Read the table of errors in the report; lower the load or mend the engine's settings.",
)


def failures(evidence: Evidence) -> Iterator[Finding]:
    metrics, num_planned = evidence.metrics, len(evidence.planned_load.requests)
    if evidence.status == "partial":
        yield PARTIAL.found(f"stopped after {metrics.num_requests} of {num_planned} requests")
    elif metrics.num_requests != num_planned:
        yield PARTIAL.found(f"{metrics.num_requests} requests were answered or failed, {num_planned} were planned")
    for loss in evidence.losses:
        yield RECORDS_LOST.found(loss)
    if metrics.num_errors > MAX_ERROR_RATIO * metrics.num_requests:
        yield ERRORS.found(
            f"{metrics.num_errors} of {metrics.num_requests} requests failed; the bound is {MAX_ERROR_RATIO:.0%}"
        )
