"""The gateway's benchmark: its configs load, its reader of wrk's reports reads, its instant server answers."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from instant_server import ABSENT, MODELS, NUM_TOKENS, STREAMED, WHOLE, InstantConnection

from enginebay.config.loader import parse_config
from gateway import FIELDS, FULL, PLAIN, added, read_wrk

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


def test_what_is_added_is_a_difference_at_one_connection() -> None:
    direct = {"not_streamed_1_connection": {"latency_p50_s": 0.001, "latency_p99_s": 0.002}}
    through = {"not_streamed_1_connection": {"latency_p50_s": 0.0015, "latency_p99_s": 0.004}}
    assert added(direct, through) == pytest.approx({"latency_p50_s": 0.0005, "latency_p99_s": 0.002})


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
