"""Whether the requests of an open loop were sent as fast as planned.

This is about the client. An engine that answers more slowly than it is asked has a result, and a bad one: waiting shows
in the time to the first token, and the run stays valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from enginebay.loadtest.validity.client import lag_bound_s
from enginebay.loadtest.validity.evidence import Evidence
from enginebay.loadtest.validity.reason import Finding, Reason

MIN_RATE_RATIO = 0.99

RATE_NOT_REACHED = Reason(
    code="rate_not_reached",
    meaning="Requests were sent at a lower rate than asked.",
    bound=f"in an open loop, the rate of sending is at least {MIN_RATE_RATIO:.0%} of that of the plan, the bound of "
    "`client_late` granted",
    remedy="As for `client_late`; the engine itself cannot cause this.",
)


def rate_reached(evidence: Evidence) -> Iterator[Finding]:
    # Turns of a conversation have no instant of their own: they follow the answer before.
    scheduled = [
        (offset_s, record.sent_at)
        for record in evidence.records
        if (planned := evidence.planned.get(record.index)) and (offset_s := planned.offset_s) is not None
    ]
    planned_s = _span([offset_s for offset_s, _ in scheduled])
    sent_s = _span([sent_at for _, sent_at in scheduled])
    if len(scheduled) < 2 or planned_s <= 0:
        return
    if planned_s / max(sent_s - lag_bound_s(evidence), planned_s) < MIN_RATE_RATIO:
        asked, reached = (len(scheduled) - 1) / planned_s, (len(scheduled) - 1) / sent_s
        yield RATE_NOT_REACHED.found(
            f"{reached:.4g} requests/s were sent, {asked:.4g} were planned; the bound is {MIN_RATE_RATIO:.0%} of that"
        )


def _span(instants: Sequence[float]) -> float:
    return max(instants) - min(instants) if instants else 0.0
