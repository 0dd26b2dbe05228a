"""Whether the engine was still getting faster while it was measured.

What a request waits for depends on who came before it, so that its time to the first token remembers the last seconds:
a trend test on single requests would find trends everywhere. The test looks at averages over stretches of the run.

- Closed loop: output tokens in NUM_STRETCHES stretches of equal length, from the first tokens of the first round of
  users to the sending of the last request: all users are there all the time. They must not go up.
- Open loop at a steady rate: medians of the time per further token over stretches of as many requests each, of requests
  that came when the first answer was finished and early enough not to see the load fade. They must not go down.

Mann-Kendall's test, one-sided; and the change must be worth telling. The first round itself is looked at apart.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

from enginebay.errors import LoadTestError
from enginebay.loadtest.metrics import e2e_s, tpot_s, ttft_s
from enginebay.loadtest.records import Record
from enginebay.loadtest.validity.evidence import Evidence
from enginebay.loadtest.validity.reason import Finding, Reason
from enginebay.statistics.percentiles import percentile
from enginebay.statistics.trend import Trend, trend

NUM_STRETCHES = 12
MIN_STRETCHES = 8
MIN_TOKENS_PER_STRETCH = 10
MIN_REQUESTS_PER_STRETCH = 5
MIN_ROUNDS = 3
"""Requests of each user: the first is no part of the trend, and one more tells of little but its own beginning."""
MAX_P_VALUE = 0.001
MIN_CHANGE_RATIO = 1.1
MIN_OPEN_CHANGE_RATIO = 1.2
"""In an open loop, where a token also takes longer or shorter by how many requests happen to be there."""
STEADY_ARRIVALS = ("constant", "poisson", "gamma")

WARM_UP_TOO_SHORT = Reason(
    code="warm_up_too_short",
    meaning="The engine became faster while it was measured: it was not warm yet.",
    bound=f"no trend towards faster (Mann-Kendall over up to {NUM_STRETCHES} stretches of the run, one-sided, "
    f"p below {MAX_P_VALUE:g}) that makes the last third {MIN_CHANGE_RATIO - 1:.0%} faster than the first (in an "
    f"open loop {MIN_OPEN_CHANGE_RATIO - 1:.0%}); and the quickest first token of the first round takes at most as "
    "many times the slowest later one as there are users, and one more",
    remedy="Raise `bench.warmup_requests`; engines compile for sizes of batches that they have not seen.",
)


def warmed_up(evidence: Evidence) -> Iterator[Finding]:
    if evidence.status == "partial":
        return
    yield from _cold_start(evidence)
    load = evidence.planned_load.load
    if load.users is None and load.arrivals not in STEADY_ARRIVALS:
        yield WARM_UP_TOO_SHORT.not_looked(f"the load of {load.arrivals} arrivals changes by itself")
        return
    try:
        found = _throughput_trend(evidence, load.users) if load.users else _latency_trend(evidence)
    except LoadTestError as error:  # SciPy is not installed
        yield WARM_UP_TOO_SHORT.not_looked(str(error))
        return
    if found is None:
        yield WARM_UP_TOO_SHORT.not_looked("the run is too short to tell a trend from chance")
        return
    faster = found.change_ratio if load.users else 1 / found.change_ratio
    bound = MIN_CHANGE_RATIO if load.users else MIN_OPEN_CHANGE_RATIO
    if found.p_value < MAX_P_VALUE and faster >= bound:
        what = "output tokens per second" if load.users else "speed after the first token"
        yield WARM_UP_TOO_SHORT.found(
            f"{what} rose by {faster - 1:.0%} from the first third of the run to the last "
            f"(p = {found.p_value:.2g}); the bound is {bound - 1:.0%} at p = {MAX_P_VALUE:g}"
        )


def _throughput_trend(evidence: Evidence, users: int) -> Trend | None:
    in_order = [record for record in evidence.sent_in_order if record.arrivals]
    if len(in_order) < MIN_ROUNDS * users:
        return None
    begins_at = max(record.arrivals[0].at for record in in_order[:users])
    ends_at = in_order[-1].sent_at
    counts = _tokens_per_stretch(in_order, begins_at=begins_at, ends_at=ends_at)
    return trend(counts, "up") if counts else None


def _tokens_per_stretch(records: Sequence[Record], *, begins_at: float, ends_at: float) -> list[float]:
    """Empty where there are too few tokens for stretches."""
    arrivals = sorted(
        (arrival.at, arrival.num_tokens)
        for record in records
        for arrival in record.arrivals
        if begins_at < arrival.at <= ends_at
    )
    if sum(num_tokens for _, num_tokens in arrivals) < NUM_STRETCHES * MIN_TOKENS_PER_STRETCH:
        return []
    instants = [at for at, _ in arrivals]
    stretch_s = (ends_at - begins_at) / NUM_STRETCHES
    bounds = [bisect_left(instants, begins_at + stretch_s * number) for number in range(NUM_STRETCHES)]
    slices = zip(bounds, [*bounds[1:], len(arrivals)], strict=True)
    return [float(sum(num_tokens for _, num_tokens in arrivals[first:end])) for first, end in slices]


def _latency_trend(evidence: Evidence) -> Trend | None:
    timed = [
        (record.sent_at, per_token_s)
        for record in _undisturbed(evidence)
        if (per_token_s := tpot_s(record)) is not None
    ]
    num_stretches = min(NUM_STRETCHES, len(timed) // MIN_REQUESTS_PER_STRETCH)
    if num_stretches < MIN_STRETCHES:
        return None
    bounds = [round(number * len(timed) / num_stretches) for number in range(num_stretches + 1)]
    medians = [median(per_token_s for _, per_token_s in timed[first:end]) for first, end in pairwise(bounds)]
    return trend(medians, "down")


def _undisturbed(evidence: Evidence) -> list[Record]:
    """Sent when the first answer was finished, and early enough to be answered before the last was sent."""
    in_order = [record for record in evidence.sent_in_order if record.is_finished and record.arrivals]
    if not in_order:
        return []
    begins_at = in_order[0].ended_at
    ends_at = in_order[-1].sent_at - percentile([e2e_s(record) or 0.0 for record in in_order], 99)
    return [record for record in in_order if begins_at <= record.sent_at <= ends_at]


def _cold_start(evidence: Evidence) -> Iterator[Finding]:
    """The first round enters an engine that has nothing else to do: its quickest first token waits for no more than
    the prompts of its own round."""
    num_first = evidence.planned_load.load.users or 1
    times = [value for record in evidence.sent_in_order if (value := ttft_s(record)) is not None]
    first, later = times[:num_first], times[num_first:]
    if len(later) < max(5, num_first):
        return
    bound_s = (num_first + 1) * max(later)
    if min(first) > bound_s:
        yield WARM_UP_TOO_SHORT.found(
            f"the quickest first token of the first round took {min(first):.2f} s; the bound is {bound_s:.2f} s, "
            f"{num_first + 1} times the slowest later one"
        )
