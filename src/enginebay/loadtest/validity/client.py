"""Whether the load test's own client was fit to measure what it measured."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from enginebay.loadtest.plan import Load
from enginebay.loadtest.records import Record
from enginebay.loadtest.self_check.ceiling import ClientCeiling
from enginebay.loadtest.validity.evidence import Evidence
from enginebay.loadtest.validity.reason import Finding, Reason

LEAST_LAG_BOUND_S = 0.010
LAG_RATIO = 0.1
LEAST_STALL_BOUND_S = 0.100
STALL_RATIO = 1.0
MOST_STALL_BOUND_S = 1.0
"""However slow the engine: a client that stands still for longer is broken, and gaps between tokens are far shorter."""
MAX_CPU_RATIO = 0.9
MAX_CEILING_RATIO = 0.9

CLIENT_LATE = Reason(
    code="client_late",
    meaning="The client sent its requests later than scheduled, so that the engine had another load than planned.",
    bound=f"99 of 100 requests are sent within {LEAST_LAG_BOUND_S * 1000:.0f} ms of their instant (in a closed loop: "
    f"of the moment at which a user was free to ask), or within {LAG_RATIO:.0%} of the median time to the first token "
    "where that is more",
    remedy="Give the client a processor of its own, spread it over more processes, or lower the rate. With more users "
    "than connections, raise `options.max_connections` of the backend.",
)
CLIENT_STALLED = Reason(
    code="client_stalled",
    meaning="The client's event loop stood still, and every byte that came meanwhile was stamped too late.",
    bound=f"no stall is longer than {LEAST_STALL_BOUND_S * 1000:.0f} ms, or than the median time to the first token "
    f"where that is more; never longer than {MOST_STALL_BOUND_S:g} s",
    remedy="Look for what shares the client's processor; run the engine on another machine or on other cores.",
)
CLIENT_SATURATED = Reason(
    code="client_saturated",
    meaning="The client had no processor time to spare: it measured itself.",
    bound=f"each process of the client uses at most {MAX_CPU_RATIO:.0%} of one core",
    remedy="Spread the client over more processes, or lower the load.",
)
BEYOND_CEILING = Reason(
    code="beyond_ceiling",
    meaning="The load is near or beyond what this client was measured to reach on this machine.",
    bound=f"requests and chunks together need at most {MAX_CEILING_RATIO:.0%} of what `enginebay bench --self-check` "
    "found, for as many processes as the run had",
    remedy="Spread the client over more processes, or lower the load; after a change of the machine, run "
    "`enginebay bench --self-check` again.",
)


def client_in_time(evidence: Evidence) -> Iterator[Finding]:
    lag_s, bound_s = evidence.client.send_lag_p99_s, lag_bound_s(evidence)
    # In a closed loop, too: users who wait for a connection are fewer users than the load says.
    if lag_s is not None and lag_s > bound_s:
        yield CLIENT_LATE.found(
            f"1 of 100 requests was sent {_ms(lag_s)} or more after its instant; the bound is {_ms(bound_s)}"
        )
    stall_s, bound_s = evidence.client.longest_stall_s, stall_bound_s(evidence)
    if stall_s > bound_s:
        yield CLIENT_STALLED.found(f"the client stood still for {_ms(stall_s)}; the bound is {_ms(bound_s)}")


def lag_bound_s(evidence: Evidence) -> float:
    return max(LEAST_LAG_BOUND_S, LAG_RATIO * _median_ttft_s(evidence))


def stall_bound_s(evidence: Evidence) -> float:
    return min(MOST_STALL_BOUND_S, max(LEAST_STALL_BOUND_S, STALL_RATIO * _median_ttft_s(evidence)))


def client_has_time(evidence: Evidence) -> Iterator[Finding]:
    busiest = max(evidence.client.cpu_ratios, default=0.0)
    if busiest > MAX_CPU_RATIO:
        yield CLIENT_SATURATED.found(
            f"a process of the client used {busiest:.0%} of its core; the bound is {MAX_CPU_RATIO:.0%}"
        )


def client_below_ceiling(evidence: Evidence) -> Iterator[Finding]:
    ceiling = evidence.ceiling
    if ceiling is None:
        yield BEYOND_CEILING.not_looked("no ceiling is known for this machine: run `enginebay bench --self-check`")
        return
    used = ceiling_ratio(evidence, ceiling)
    if used > MAX_CEILING_RATIO:
        yield BEYOND_CEILING.found(
            f"the load needs {used:.0%} of what the client can do here "
            f"({ceiling.requests_per_s:.0f} requests/s of {ceiling.num_tokens} tokens in each process); "
            f"the bound is {MAX_CEILING_RATIO:.0%}"
        )


def ceiling_ratio(evidence: Evidence, ceiling: ClientCeiling) -> float:
    """Share of the client's capacity that the run needs: of what was asked or of what was reached, whichever is more.

    The ceiling's own answers cost a request and `num_tokens` chunks: 1 / requests_per_s = request + num_tokens * chunk.
    """
    chunk_s = 1 / ceiling.chunks_per_s
    request_s = max(0.0, 1 / ceiling.requests_per_s - ceiling.num_tokens * chunk_s)
    chunks_per_request = _mean_chunks(evidence.records)
    requests_per_s = max(_rate_reached(evidence), _rate_asked(evidence.planned_load.load))
    num_processes = max(1, evidence.client.num_processes)
    return requests_per_s * (request_s + chunks_per_request * chunk_s) / num_processes


def _rate_asked(load: Load) -> float:
    """The highest, where it changes."""
    return max(load.rate or 0.0, load.end_rate or 0.0, *(step.rate for step in load.steps))


def _rate_reached(evidence: Evidence) -> float:
    metrics = evidence.metrics
    return metrics.num_requests / metrics.duration_s if metrics.duration_s > 0 else 0.0


def _mean_chunks(records: Sequence[Record]) -> float:
    return sum(record.num_chunks for record in records) / len(records) if records else 0.0


def _median_ttft_s(evidence: Evidence) -> float:
    return evidence.metrics.ttft_s.p50 if evidence.metrics.ttft_s is not None else 0.0


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
