"""What other load tests are known to do wrong, each looked for in ours, over real sockets."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence

import pytest
from loadtest_fakes import planned

from enginebay.clock import MonotonicClock
from enginebay.loadtest.metrics import tpot_s, ttft_s, ttft_scheduled_s
from enginebay.loadtest.plan import Load, PlannedRequest
from enginebay.loadtest.records import Record
from enginebay.loadtest.self_check.oracle_process import oracle_process
from enginebay.loadtest.self_check.script import Exchange, OracleScript
from enginebay.loadtest.single_process import SingleProcess
from enginebay.plugins import get_backend

AT_ONCE = Load(rate=1000.0, arrivals="constant")


def replayed(
    requests: Sequence[PlannedRequest], load: Load, script: OracleScript, *, max_connections: int = 1024
) -> tuple[list[Record], dict[str, Exchange], float]:
    async def main() -> tuple[list[Record], dict[str, Exchange], float]:
        records: list[Record] = []
        options = {"max_connections": max_connections}
        async with (
            oracle_process() as oracle,
            get_backend("openai_http", url=oracle.url, model="oracle", options=options) as backend,
        ):
            await oracle.play(script)
            replayer = SingleProcess(backend, clock=MonotonicClock(), on_record=records.append)
            await replayer.run(requests, load)
            return records, await oracle.exchanges(), replayer.started_at

    return asyncio.run(main())


def known(value: float | None) -> float:
    assert value is not None
    return value


def test_arrivals_beyond_the_connections_wait_and_are_not_dropped_and_their_latency_counts_from_their_instant() -> None:
    requests = [planned(index, max_tokens=1, offset_s=0.0) for index in range(5)]
    records, exchanges, started_at = replayed(
        requests, AT_ONCE, OracleScript(first_token_after_s=0.1), max_connections=1
    )
    records.sort(key=lambda record: record.sent_at)
    assert sorted(record.index for record in records) == list(range(5))
    assert all(record.is_finished for record in records)
    for place, record in enumerate(records):
        assert record.scheduled_at == 0.0
        # One after the other: each waited for the answers before it, and that shows from the scheduled instant only.
        assert record.sent_at >= 0.1 * place
        assert known(ttft_scheduled_s(record)) >= 0.1 * (place + 1)
        assert 0.1 <= known(ttft_s(record)) < 0.19
        received_at = exchanges[f"run-{record.index}"].received_at - started_at
        assert record.sent_at <= received_at < record.sent_at + 0.05


def test_the_time_per_output_token_has_nothing_of_the_time_to_the_first() -> None:
    script = OracleScript(first_token_after_s=0.4, token_gap_s=0.01)
    [record], _, _ = replayed([planned(0, max_tokens=5)], Load(users=1), script)
    assert known(ttft_s(record)) >= 0.4
    assert 0.005 < known(tpot_s(record)) < 0.08  # with the first token in it, it would be 0.1 and more


def test_a_wall_clock_that_jumps_changes_no_figure(monkeypatch) -> None:
    jumps = iter(range(10**9))
    monkeypatch.setattr(time, "time", lambda: 1e9 - 1000.0 * next(jumps))
    script = OracleScript(first_token_after_s=0.05, token_gap_s=0.01)
    requests = [planned(index, max_tokens=3, offset_s=index / 50) for index in range(10)]
    records, _, _ = replayed(requests, Load(rate=50.0, arrivals="constant"), script)
    for record in records:
        instants = [record.scheduled_at, record.sent_at, *(arrival.at for arrival in record.arrivals), record.ended_at]
        assert instants == sorted(instants)
        assert instants[-1] < 30.0


@pytest.mark.parametrize("num_echoed", [10_000, 300_000])
def test_one_long_event_ends_no_stream_and_delays_no_token(num_echoed: int) -> None:
    """300,000 ids are 2 MB in one event: more than 64 KiB, and more than our own read buffer."""
    script = OracleScript(num_echoed_prompt_tokens=num_echoed, first_token_after_s=0.05, token_gap_s=0.02)
    records, exchanges, started_at = replayed(
        [planned(index, max_tokens=4) for index in range(3)], Load(users=1), script
    )
    for record in records:
        assert record.is_finished
        assert [arrival.num_tokens for arrival in record.arrivals] == [1, 1, 1, 1]
        sent_at = exchanges[f"run-{record.index}"].sent_at
        delays = [arrival.at + started_at - at for arrival, at in zip(record.arrivals, sent_at, strict=True)]
        assert all(0 <= delay < 0.2 for delay in delays)


def test_a_long_prompt_is_sent_whole_before_the_clock_of_the_server_runs() -> None:
    text = "word " * 400_000
    long = PlannedRequest(index=0, text=text, num_prompt_tokens=400_001, sampling=planned(0).sampling)
    [record], exchanges, started_at = replayed([long], Load(users=1), OracleScript())
    assert record.num_prompt_tokens == 400_001
    assert record.is_finished
    assert record.sent_at + started_at <= exchanges["run-0"].received_at


def test_a_closed_loop_waits_for_the_whole_answer_and_not_for_its_decoding() -> None:
    script = OracleScript(first_token_after_s=0.01)
    records, exchanges, _ = replayed([planned(index, max_tokens=1) for index in range(30)], Load(users=1), script)
    in_order = sorted(records, key=lambda record: record.sent_at)
    for before, after in itertools.pairwise(in_order):
        first = exchanges[f"run-{before.index}"]
        second = exchanges[f"run-{after.index}"]
        assert second.received_at >= first.sent_at[-1]
        assert after.scheduled_at >= known(before.last_token_at)
