"""What the client records, held against a server in another process that knows what it sent and when."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import msgspec
import pytest
from child_processes import child_processes
from loadtest_fakes import ENVIRONMENT

from enginebay.clock import MonotonicClock
from enginebay.loadtest.metrics import output_tokens
from enginebay.loadtest.plan import Load
from enginebay.loadtest.self_check.ceiling import ClientCeiling, load_ceiling, save_ceiling
from enginebay.loadtest.self_check.check import check_client
from enginebay.loadtest.self_check.oracle_process import oracle_process
from enginebay.loadtest.self_check.raw_load import server_requests_per_s
from enginebay.loadtest.self_check.script import OracleScript
from enginebay.loadtest.self_check.trial import Trial, planned_requests, run_trial
from enginebay.plugins import get_backend

__all__ = ["child_processes"]  # a fixture of every test here

CEILING = ClientCeiling(
    requests_per_s=3000.0,
    burst_requests_per_s=9000.0,
    chunks_per_s=80_000.0,
    num_streams=512,
    stream_tokens_per_s=20.0,
    max_stamp_error_s=0.005,
    num_users=64,
    num_tokens=16,
    ttft_error_p50_s=0.0001,
    ttft_error_p99_s=0.0009,
    timing_requests_per_s=100.0,
    offset_error_p50_s=0.0004,
    offset_error_p99_s=0.0011,
    offset_requests_per_s=500.0,
    num_wrong_token_counts=0,
    server_requests_per_s=20_000.0,
    environment=ENVIRONMENT,
    measured_at="2026-11-22T12:00:00+00:00",
)


def trial(
    script: OracleScript, *, num_requests: int = 20, num_tokens: int | tuple[int, ...] = 4, rate: float | None = None
) -> Trial:
    async def main() -> Trial:
        async with oracle_process() as oracle, get_backend("openai_http", url=oracle.url, model="oracle") as backend:
            requests = planned_requests(num_requests, num_tokens=num_tokens, rate=rate)
            load = Load(users=4) if rate is None else Load(rate=rate, arrivals="constant")
            return await run_trial(oracle, backend, requests, load, script=script, clock=MonotonicClock())

    return asyncio.run(main())


def test_the_first_token_is_stamped_after_it_was_sent_and_the_role_before_it_is_none() -> None:
    found = trial(OracleScript(first_token_after_s=0.1, token_gap_s=0.01, role_only_chunk=True), rate=100.0)
    assert len(found.records) == 20
    for record, exchange in zip(found.records, found.exchanges, strict=True):
        assert record.first_token_at is not None
        assert record.first_token_at + found.started_at >= exchange.sent_at[0] >= exchange.received_at + 0.1
    # With the role taken for a token it would be off by the 0.1 s between the two.
    assert found.ttft_error_s(50) < 0.05


def test_an_error_of_timing_shows_in_the_figures() -> None:
    sound = trial(OracleScript(first_token_after_s=0.01), rate=100.0)
    early = replace(sound, records=[_shifted(record, -0.3) for record in sound.records])
    assert early.ttft_error_s(50) == pytest.approx(0.3, abs=0.05)
    assert replace(sound, started_at=sound.started_at - 0.5).offset_error_s(50) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("tokens_per_chunk", [1, 3])
def test_token_counts_are_those_that_were_sent_however_many_come_in_a_chunk(tokens_per_chunk: int) -> None:
    found = trial(OracleScript(tokens_per_chunk=tokens_per_chunk), num_requests=300, num_tokens=(1, 2, 5, 16, 33))
    assert found.num_wrong_token_counts == 0
    assert {record.num_output_tokens for record in found.records} == {1, 2, 5, 16, 33}
    longest = next(record for record in found.records if record.num_output_tokens == 33)
    assert len(longest.arrivals) == -(-33 // tokens_per_chunk)
    wrong = [msgspec.structs.replace(found.records[0], num_output_tokens=999), *found.records[1:]]
    assert replace(found, records=wrong).num_wrong_token_counts == 1


def test_the_length_that_was_asked_for_is_not_counted_as_produced() -> None:
    told = trial(OracleScript(num_tokens=3), num_tokens=16)
    assert {record.num_output_tokens for record in told.records} == {3}
    assert {record.finish_reason for record in told.records} == {"stop"}
    untold = trial(OracleScript(num_tokens=3, with_usage=False), num_tokens=16)
    assert {record.error_class for record in untold.records} == {"UpstreamError"}
    assert {output_tokens(record) for record in untold.records} == {2}  # what had come when the usage should have


def test_the_raw_load_counts_whole_answers_of_the_server() -> None:
    async def main() -> float:
        async with oracle_process() as oracle:
            body = b'{"prompt":"x","max_tokens":4,"stream":true}'
            rate = await server_requests_per_s(oracle.url, body, num_users=4, duration_s=0.3)
            num_answered = len(await oracle.exchanges())
            assert num_answered or rate == 0
            return rate

    assert asyncio.run(main()) > 50


def test_the_self_check_fills_every_figure() -> None:
    steps: list[str] = []
    ceiling = asyncio.run(check_client(environment=ENVIRONMENT, seconds=0.2, on_step=steps.append))
    assert len(steps) == 6
    assert ceiling.num_wrong_token_counts == 0
    assert 50 < ceiling.requests_per_s < ceiling.burst_requests_per_s
    assert ceiling.server_requests_per_s > 50
    assert ceiling.chunks_per_s > 16 * 50
    assert 0 < ceiling.ttft_error_p50_s <= ceiling.ttft_error_p99_s < 1
    assert 0 < ceiling.offset_error_p50_s <= ceiling.offset_error_p99_s < 1


def test_a_ceiling_is_read_again_on_the_machine_it_was_measured_on_and_on_no_other(tmp_path) -> None:
    path = tmp_path / "ceiling.json"
    assert load_ceiling(path, environment=ENVIRONMENT) is None
    save_ceiling(CEILING, path)
    assert load_ceiling(path, environment=ENVIRONMENT) == CEILING
    more_memory = msgspec.structs.replace(ENVIRONMENT, memory_bytes=1)
    assert load_ceiling(path, environment=more_memory) == CEILING
    other_machine = msgspec.structs.replace(ENVIRONMENT, cpu="Another CPU")
    assert load_ceiling(path, environment=other_machine) is None


@pytest.mark.parametrize("content", [b"{}", b"not json", b'{"version": 99}'])
def test_a_ceiling_of_another_version_is_as_good_as_none(tmp_path, content: bytes) -> None:
    path = tmp_path / "ceiling.json"
    path.write_bytes(content)
    assert load_ceiling(path, environment=ENVIRONMENT) is None


def test_a_server_no_faster_than_the_client_bounds_what_was_measured() -> None:
    assert not CEILING.is_bounded_by_server
    assert msgspec.structs.replace(CEILING, server_requests_per_s=9100.0).is_bounded_by_server


def _shifted(record, by_s: float):
    arrivals = [msgspec.structs.replace(arrival, at=arrival.at + by_s) for arrival in record.arrivals]
    return msgspec.structs.replace(record, arrivals=arrivals)
