"""Whether a run has enough requests for the percentiles that it was asked for.

Of n independent values the largest lies below the p-th percentile with probability (p / 100) ** n. Where that is more
than 5 %, no value of the sample bounds the percentile from above: what is printed for it says little more than the
largest value does. Source: Wilks 1941 on tolerance limits. 5 requests suffice for p50, 29 for p90, 299 for p99.
"""

from __future__ import annotations

from collections.abc import Iterator

from enginebay.loadtest.validity.evidence import Evidence
from enginebay.loadtest.validity.reason import Finding, Reason
from enginebay.statistics.percentiles import num_values_needed

CONFIDENCE = 0.95

TOO_FEW_REQUESTS = Reason(
    code="too_few_requests",
    meaning="Fewer requests finished than it takes to tell a percentile that was asked for.",
    bound=f"some value of the run lies above the percentile with {CONFIDENCE:.0%} confidence: "
    + ", ".join(f"{num_values_needed(percent, confidence=CONFIDENCE)} requests for p{percent}" for percent in (50, 90))
    + ", "
    + " and ".join(f"{num_values_needed(percent, confidence=CONFIDENCE)} for p{percent}" for percent in (95, 99)),
    remedy="Raise `bench.num_requests`, or ask for a lower percentile in `bench.percentiles`.",
)


def enough_requests(evidence: Evidence) -> Iterator[Finding]:
    if evidence.status == "partial":
        return  # it says so already
    num_finished = len(evidence.finished)
    for percent in evidence.percentiles:
        needed = num_values_needed(percent, confidence=CONFIDENCE)
        if num_finished < needed:
            yield TOO_FEW_REQUESTS.found(f"p{percent:g} needs {needed} requests, {num_finished} finished")
