"""Records -> figures. Pure functions; docs/metrics.md gives each definition in words.

Failed requests are counted in every denominator and never dropped. Requests that were still on their way when the
load test was stopped are neither finished nor failed: they are counted apart, and nothing here but the engine's own
counters contains them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise

import msgspec

from enginebay.loadtest.policy_metrics import PolicyMetrics
from enginebay.loadtest.records import Record
from enginebay.statistics.summary import summarize


class ServiceLevels(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a request good; a level that is None is always met."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


class Distribution(msgspec.Struct, frozen=True, kw_only=True):
    num_values: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float


class Metrics(PolicyMetrics, frozen=True, kw_only=True):
    duration_s: float
    num_requests: int
    """Answered or failed."""
    num_errors: int
    num_unfinished: int
    """On their way when the load test was stopped."""
    requests_per_s: float
    output_tokens_per_s: float
    goodput_rps: float
    goodput_ratio: float
    num_prompt_tokens: int
    num_output_tokens: int
    num_retokenized_tokens: int | None
    """Of the requests that have such a count."""
    num_token_mismatches: int
    """Requests whose re-tokenised count differs from the engine's."""
    num_missing_usage: int
    num_uncounted_chunks: int
    ttft_s: Distribution | None
    ttft_scheduled_s: Distribution | None
    tpot_s: Distribution | None
    itl_s: Distribution | None
    chunk_gap_s: Distribution | None
    e2e_s: Distribution | None
    send_lag_s: Distribution | None
    """From the scheduled instant to the sending: how late this client was."""
    prompt_lengths: Distribution | None = None
    """This and the following in tokens, of finished requests."""
    planned_output_lengths: Distribution | None = None
    """What was asked for at most."""
    output_lengths: Distribution | None = None
    """What came: less, where the model ended before."""
    num_capped_outputs: int = 0
    """As long as was asked for."""


NO_POLICY = PolicyMetrics()

# ---------------------------------------------------------------- of a run


def run_metrics(records: Sequence[Record], slo: ServiceLevels, *, policy: PolicyMetrics = NO_POLICY) -> Metrics:
    ended = [record for record in records if record.is_finished or record.is_error]
    finished = [record for record in ended if record.is_finished]
    duration = duration_s(ended)
    num_output_tokens = sum(output_tokens(record) for record in finished)
    num_good = sum(is_good(record, slo) for record in finished)
    retokenized = [record for record in finished if record.num_retokenized_tokens is not None]
    return Metrics(
        duration_s=duration,
        num_requests=len(ended),
        num_errors=len(ended) - len(finished),
        num_unfinished=len(records) - len(ended),
        requests_per_s=_rate(len(finished), duration),
        output_tokens_per_s=_rate(num_output_tokens, duration),
        goodput_rps=_rate(num_good, duration),
        goodput_ratio=num_good / len(ended) if ended else 0.0,
        num_prompt_tokens=sum(record.num_prompt_tokens or 0 for record in finished),
        num_output_tokens=num_output_tokens,
        num_retokenized_tokens=sum(record.num_retokenized_tokens or 0 for record in retokenized)
        if retokenized
        else None,
        num_token_mismatches=sum(record.num_retokenized_tokens != record.num_output_tokens for record in retokenized),
        num_missing_usage=sum(record.num_output_tokens is None for record in finished),
        num_uncounted_chunks=sum(record.num_uncounted_chunks for record in finished),
        ttft_s=distribution(ttft_s(record) for record in finished),
        ttft_scheduled_s=distribution(ttft_scheduled_s(record) for record in finished),
        tpot_s=distribution(tpot_s(record) for record in finished),
        itl_s=distribution(chain.from_iterable(itl_s(record) for record in finished)),
        chunk_gap_s=distribution(chain.from_iterable(chunk_gap_s(record) for record in finished)),
        e2e_s=distribution(e2e_s(record) for record in finished),
        send_lag_s=distribution(record.sent_at - record.scheduled_at for record in ended),
        prompt_lengths=distribution(record.num_prompt_tokens for record in finished),
        planned_output_lengths=distribution(record.max_tokens for record in finished),
        output_lengths=distribution(output_tokens(record) for record in finished),
        num_capped_outputs=sum(output_tokens(record) >= record.max_tokens for record in finished),
        **msgspec.structs.asdict(policy),
    )


def duration_s(ended: Sequence[Record]) -> float:
    """From the first scheduled instant to the last token or failure; 0 without records.

    ended: answered or failed. What was interrupted adds neither tokens nor time.
    """
    if not ended:
        return 0.0
    return max(_last_sign_at(record) for record in ended) - min(record.scheduled_at for record in ended)


def distribution(values: Iterable[float | None]) -> Distribution | None:
    summary = summarize(values)
    if summary is None:
        return None
    return msgspec.convert(summary, Distribution, from_attributes=True)


def is_good(record: Record, slo: ServiceLevels) -> bool:
    """Finished within every level. One output token has no tpot_s and so cannot miss its level."""
    measured = (
        (ttft_s(record), slo.ttft_s, False),
        (tpot_s(record), slo.tpot_s, True),
        (e2e_s(record), slo.e2e_s, False),
    )
    return record.is_finished and all(_meets(*item) for item in measured)


# ---------------------------------------------------------------- of one request


def ttft_s(record: Record) -> float | None:
    """From sending to the first chunk with at least one token; None if no token came."""
    return None if record.first_token_at is None else record.first_token_at - record.sent_at


def ttft_scheduled_s(record: Record) -> float | None:
    """The same from the scheduled instant: shows a client that falls behind (coordinated omission)."""
    return None if record.first_token_at is None else record.first_token_at - record.scheduled_at


def tpot_s(record: Record) -> float | None:
    """(last token - first token) / (output tokens - 1); None for one token or none."""
    num_tokens = output_tokens(record)
    if record.first_token_at is None or record.last_token_at is None or num_tokens < 2:
        return None
    return (record.last_token_at - record.first_token_at) / (num_tokens - 1)


def itl_s(record: Record) -> Iterator[float]:
    """Gaps between tokens; tokens that arrived in one chunk share its arrival, so their gaps are 0."""
    previous: float | None = None
    for arrival in record.arrivals:
        if previous is not None:
            yield arrival.at - previous
        yield from (0.0 for _ in range(arrival.num_tokens - 1))
        previous = arrival.at


def chunk_gap_s(record: Record) -> Iterator[float]:
    """Gaps between chunks that carry tokens: what a reader of the stream sees."""
    return (later.at - earlier.at for earlier, later in pairwise(record.arrivals))


def e2e_s(record: Record) -> float | None:
    """From sending to the last token; None if no token came."""
    return None if record.last_token_at is None else record.last_token_at - record.sent_at


def output_tokens(record: Record) -> int:
    """The engine's count; where it gave none, what arrived (`num_missing_usage` tells how often)."""
    if record.num_output_tokens is not None:
        return record.num_output_tokens
    return sum(arrival.num_tokens for arrival in record.arrivals)


def _last_sign_at(record: Record) -> float:
    if record.is_finished and record.last_token_at is not None:
        return record.last_token_at
    return record.ended_at


def _rate(count: float, duration: float) -> float:
    return count / duration if duration > 0 else 0.0


def _meets(value: float | None, level: float | None, is_absence_good: bool) -> bool:
    if level is None:
        return True
    return is_absence_good if value is None else value <= level
