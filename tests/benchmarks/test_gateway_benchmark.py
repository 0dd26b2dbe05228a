"""The gateway's benchmark: configs load, wrk's reports are read, rounds become figures, the instant server answers."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from bars import exit_code
from gateway_stage import FULL, PLAIN, log_kept_on_failure
from instant_server import ABSENT, MODELS, NUM_TOKENS, STREAMED, WHOLE, InstantConnection
from wrk import read_wrk

from enginebay.config.loader import parse_config
from gateway import ALONE, BUSY, FIELDS, LOADS, added, bars, ratios, results_of

REPORT = """Running 1s test @ http://127.0.0.1:1
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     9.10ms    1.20ms  20.00ms   90.00%
  Latency Distribution
     50%    9.05ms
     75%    9.50ms
     90%   10.11ms
     99%  120.00us
  6912 requests in 1.00s, 2.00MB read
"""


def test_a_report_of_wrk_is_read_with_its_units() -> None:
    figures = read_wrk(REPORT + "Requests/sec:   6912.55\nTransfer/sec:      2.00MB\n")
    expected = {"requests_per_s": 6912.55, "latency_p50_s": 0.00905, "latency_p99_s": 0.00012, "num_errors": 0}
    assert figures == pytest.approx(expected)


def test_answers_that_are_no_200_and_broken_connections_are_errors() -> None:
    errors = "  Socket errors: connect 1, read 2, write 0, timeout 4\n  Non-2xx or 3xx responses: 10\n"
    assert read_wrk(REPORT + errors + "Requests/sec:   6912.55\n")["num_errors"] == 17


def test_a_unit_of_one_letter_is_read_with_the_blank_that_wrk_writes_after_it() -> None:
    report = REPORT.replace("99%  120.00us", "99%    1.41s ") + "Requests/sec:     74.79\n"
    assert read_wrk(report)["latency_p99_s"] == pytest.approx(1.41)


def round_of(rate: float, latency_s: float, *, num_errors: int = 0, idle_bytes: int | None = None) -> dict[str, object]:
    """The same in each load: p99 is twice p50."""
    figures = {"requests_per_s": rate, "latency_p50_s": latency_s, "latency_p99_s": 2 * latency_s}
    loads: dict[str, object] = {load: {**figures, "num_errors": num_errors} for load in LOADS}
    return loads if idle_bytes is None else {**loads, "idle_resident_bytes": idle_bytes}


def measured(**changes: list[dict[str, object]]) -> dict[str, list[dict[str, object]]]:
    full = [round_of(6000, latency_s, idle_bytes=90_000_000) for latency_s in (0.0003, 0.0004, 0.0009)]
    rounds = {"direct": [round_of(90_000, 0.0001)] * 3, "plain": full, "full": full}
    return {**rounds, **changes}


def test_what_is_added_is_the_median_of_the_differences_within_each_round() -> None:
    direct = [round_of(1, latency_s) for latency_s in (0.001, 0.002, 0.003)]
    through = [round_of(1, latency_s) for latency_s in (0.0015, 0.0028, 0.0031)]
    assert added(direct, through) == pytest.approx({"latency_p50_s": 0.0005, "latency_p99_s": 0.001})


def test_figures_are_medians_over_the_rounds_and_errors_their_sum() -> None:
    full = [round_of(rate, 0.001, num_errors=1, idle_bytes=rate) for rate in (10, 40, 20)]
    results = results_of(measured(full=full))
    assert results["full"][BUSY]["requests_per_s"] == 20
    assert results["full"][BUSY]["num_errors"] == 3
    assert results["full"]["idle_resident_bytes"] == 40
    assert [one[BUSY]["requests_per_s"] for one in results["full"]["rounds"]] == [10, 40, 20]


def test_what_is_fast_enough_passes_and_each_bar_can_fail(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(bars(results_of(measured()))) == 0
    slow = {
        "rate": round_of(2499, 0.0003, idle_bytes=1),
        "p50 and p99": round_of(6000, 0.002, idle_bytes=1),
        "memory": round_of(6000, 0.0003, idle_bytes=151_000_000),
        "errors": round_of(6000, 0.0003, num_errors=1, idle_bytes=1),
    }
    missed = {name: exit_code(bars(results_of(measured(full=[one] * 3)))) for name, one in slow.items()}
    assert missed == dict.fromkeys(slow, 1)
    assert "missed" in capsys.readouterr().out


def test_a_stretch_that_is_missed_is_told_and_fails_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(bars(results_of(measured(full=[round_of(3000, 0.0003, idle_bytes=1)] * 3)))) == 0
    assert "at least 5000: missed, stretch" in capsys.readouterr().out


def test_a_peer_stands_beside_the_full_gateway_as_ratios() -> None:
    results = results_of(measured(litellm=[round_of(60, 0.01, idle_bytes=1)] * 3))
    assert results["litellm"]["full_beside_it"][ALONE] == pytest.approx(
        {"requests_per_s": 100, "latency_p50_s": 25, "latency_p99_s": 25}
    )
    assert ratios(results["full"], results["full"])[BUSY]["requests_per_s"] == 1


def test_a_peer_that_answered_nothing_has_no_ratios() -> None:
    results = results_of(measured(litellm=[round_of(0, 0.0, idle_bytes=1)] * 3))
    assert set(results["litellm"]["full_beside_it"][BUSY].values()) == {None}


def test_what_a_process_said_is_kept_where_the_measurement_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept_in = tmp_path / "kept"
    kept_in.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(kept_in))
    log = tmp_path / "gateway.log"

    def fail() -> None:
        with log_kept_on_failure(log):
            log.write_text("its last words")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    [kept] = kept_in.iterdir()
    assert kept.read_text() == "its last words"
    assert str(kept) in capsys.readouterr().err


def test_nothing_is_kept_where_all_went_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept_in = tmp_path / "kept"
    kept_in.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(kept_in))
    with log_kept_on_failure(tmp_path / "gateway.log"):
        (tmp_path / "gateway.log").write_text("client gone")
    assert list(kept_in.iterdir()) == []


@pytest.mark.parametrize("config", [PLAIN, FULL])
def test_the_configs_load(config: str, tmp_path: Path) -> None:
    loaded = parse_config(config.format(engine="http://127.0.0.1:1", folder=tmp_path))
    assert loaded.gateway is not None
    assert (loaded.gateway.access is not None) == (config is FULL)


class Written:
    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data


def test_the_instant_server_answers_requests_in_any_pieces() -> None:
    body = json.dumps({**FIELDS, "stream": True}, separators=(",", ":")).encode()
    post = b"POST /v1/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    plain = b"POST /v1/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}"
    requests = post + body + plain + b"GET /v1/models HTTP/1.1\r\n\r\n" + b"GET /version HTTP/1.1\r\n\r\n"
    for size in (1, 7, len(requests)):
        connection, written = InstantConnection(), Written()
        connection.connection_made(written)  # pyright: ignore[reportArgumentType]
        for start in range(0, len(requests), size):
            connection.data_received(requests[start : start + size])
        assert written.data == STREAMED + WHOLE + MODELS + ABSENT


def test_the_instant_answers_say_that_they_are_simulated_and_count_their_tokens() -> None:
    for answer in (WHOLE, STREAMED, MODELS):
        assert b"x-enginebay-simulated: 1" in answer
    whole = json.loads(WHOLE.partition(b"\r\n\r\n")[2])
    assert whole["usage"]["completion_tokens"] == NUM_TOKENS
    assert STREAMED.count(b'"text": " token"') == NUM_TOKENS
