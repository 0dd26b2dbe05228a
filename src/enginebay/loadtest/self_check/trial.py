"""One load on the oracle, and what the client recorded held against what the oracle knows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from enginebay.backend import Backend
from enginebay.clock import Clock
from enginebay.loadtest.metrics import duration_s, output_tokens
from enginebay.loadtest.plan import Load, PlannedRequest
from enginebay.loadtest.records import Record
from enginebay.loadtest.self_check.oracle_process import OracleProcess
from enginebay.loadtest.self_check.script import Exchange, OracleScript
from enginebay.loadtest.single_process import SingleProcess
from enginebay.statistics.percentiles import percentile
from enginebay.types import SamplingParams

PROMPT = "a prompt of ordinary length, as people write them when they ask for something and explain it a little " * 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    records: Sequence[Record]
    exchanges: Sequence[Exchange]
    """In the order of the records: the oracle's side of each."""
    started_at: float
    """Zero of the records on the clock of the exchanges."""
    ended_at: float
    """When the last answer had been decoded too."""

    @property
    def burst_requests_per_s(self) -> float:
        """Until the last answer was there."""
        return len(self.records) / duration_s(self.records)

    @property
    def requests_per_s(self) -> float:
        """Decoding included, part of which came after the last answer: what can go on for ever."""
        return len(self.records) / (self.ended_at - self.started_at)

    @property
    def chunks_per_s(self) -> float:
        return sum(len(record.arrivals) for record in self.records) / (self.ended_at - self.started_at)

    @property
    def num_wrong_token_counts(self) -> int:
        """By the engine's usage, or by what arrived."""
        return sum(
            not output_tokens(record) == exchange.num_tokens == sum(arrival.num_tokens for arrival in record.arrivals)
            for record, exchange in zip(self.records, self.exchanges, strict=True)
        )

    def ttft_error_s(self, percent: float) -> float:
        """Of the measured TTFT against the time that the oracle let pass."""
        errors: list[float] = []
        for record, exchange in zip(self.records, self.exchanges, strict=True):
            if record.first_token_at is not None and exchange.sent_at:
                true_s = exchange.sent_at[0] - exchange.received_at
                errors.append(abs(record.first_token_at - record.sent_at - true_s))
        return percentile(errors, percent)

    def offset_error_s(self, percent: float) -> float:
        """Of the instant at which the oracle had the whole request against the planned one."""
        pairs = zip(self.records, self.exchanges, strict=True)
        return percentile(
            [abs(exchange.received_at - self.started_at - record.scheduled_at) for record, exchange in pairs], percent
        )

    def stamp_error_s(self, percent: float) -> float:
        """Of the instants at which chunks were stamped against those at which they were sent."""
        errors = [
            arrival.at + self.started_at - sent_at
            for record, exchange in zip(self.records, self.exchanges, strict=True)
            for arrival, sent_at in zip(record.arrivals, exchange.sent_at, strict=False)
        ]
        return percentile(errors, percent)


async def run_trial(
    oracle: OracleProcess,
    backend: Backend,
    requests: Sequence[PlannedRequest],
    load: Load,
    *,
    script: OracleScript,
    clock: Clock,
) -> Trial:
    await oracle.play(script)
    records: list[Record] = []
    replayer = SingleProcess(backend, clock=clock, on_record=records.append, run_id="trial")
    await replayer.run(requests, load)
    ended_at = clock.now()
    by_id = await oracle.exchanges()
    exchanges = [by_id.get(f"trial-{record.index}", Exchange("", 0.0)) for record in records]
    return Trial(records=records, exchanges=exchanges, started_at=replayer.started_at, ended_at=ended_at)


def planned_requests(
    num_requests: int, *, num_tokens: int | Sequence[int], rate: float | None = None
) -> list[PlannedRequest]:
    """num_tokens: of all, or in turn. rate: evenly spaced arrivals; None for a closed loop."""
    lengths = [num_tokens] if isinstance(num_tokens, int) else num_tokens
    return [
        PlannedRequest(
            index=index,
            text=f"{index} {PROMPT}",
            num_prompt_tokens=len(PROMPT.split()) + 1,
            offset_s=None if rate is None else index / rate,
            sampling=SamplingParams(max_tokens=lengths[index % len(lengths)], temperature=0.0, ignore_eos=True),
        )
        for index in range(num_requests)
    ]
