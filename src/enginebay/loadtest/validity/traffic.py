"""Whether the engine worked for this load test alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from enginebay.loadtest.metrics import output_tokens
from enginebay.loadtest.timeseries import Sample
from enginebay.loadtest.validity.evidence import Evidence
from enginebay.loadtest.validity.reason import Finding, Reason

MAX_SURPLUS_RATIO = 0.1

OTHER_TRAFFIC = Reason(
    code="other_traffic",
    meaning="The engine made more tokens during the run than were asked for: somebody else used it.",
    bound=f"the engine's counter of output tokens grows by at most {MAX_SURPLUS_RATIO:.0%} more than what the run "
    "received, what it discarded and what its failed requests may have cost",
    remedy="Measure an engine that nobody else uses; `enginebay bench` starts its own where the config lets it.",
)


def alone(evidence: Evidence) -> Iterator[Finding]:
    made = _growth(evidence.samples)
    if made is None:
        yield OTHER_TRAFFIC.not_looked("the engine does not count its output tokens")
        return
    received = sum(
        output_tokens(record) + (record.num_discarded_tokens or 0) if record.is_finished else record.max_tokens
        for record in evidence.records
    )
    if made > (1 + MAX_SURPLUS_RATIO) * received:
        yield OTHER_TRAFFIC.found(
            f"the engine made {made:.0f} tokens, this run asked for {received}; "
            f"the bound is {MAX_SURPLUS_RATIO:.0%} more"
        )


def _growth(samples: Sequence[Sample]) -> float | None:
    told = [sample.num_output_tokens for sample in samples if sample.num_output_tokens is not None]
    return told[-1] - told[0] if len(told) > 1 else None
