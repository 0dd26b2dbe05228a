"""docs/gateway-figures.md shows what was measured, and what was measured holds the bars."""

import asyncio
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from disconnect_engines import CASES, EngineCase  # noqa: E402
from gateway_disconnect import Samples, bars_of, measure  # noqa: E402
from gateway_figures_page import (  # noqa: E402
    MOMENTS,
    PAGE,
    RESULTS,
    disconnects,
    kept,
    memory,
    not_measured,
    with_figures,
)
from gateway_memory import risen  # noqa: E402
from memory_traffic import Traffic, is_whole  # noqa: E402

from enginebay.plugins import list_backends  # noqa: E402

MEASURED = ("gateway_disconnect", "gateway_memory")
needs_results = pytest.mark.skipif(
    not all((RESULTS / f"{name}.json").exists() for name in MEASURED),
    reason=f"not measured yet: {', '.join(f'python benchmarks/{name}.py' for name in MEASURED)}",
)


def test_the_page_shows_the_results_that_are_kept() -> None:
    assert not_measured() == [], "the page shows figures whose results are not kept"
    page = PAGE.read_text()
    assert with_figures(page) == page, "python benchmarks/gateway_figures_page.py writes the page anew"


@needs_results
def test_every_kind_was_measured() -> None:
    assert set(kept("gateway_disconnect")["backends"]) == {case.kind for case in CASES}


@needs_results
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.kind)
def test_every_slot_was_freed(case: EngineCase) -> None:
    result = kept("gateway_disconnect")["backends"][case.kind]
    assert [str(bar) for bar in bars_of(case.kind, result, 100) if not bar.is_met] == []
    assert result["simulated"] == case.simulated


@needs_results
def test_memory_was_within_its_bars() -> None:
    result = kept("gateway_memory")
    assert result["num_requests"] == 200_000
    assert all(bar["is_met"] for bar in result["bars"])


def test_every_kind_of_backend_has_a_case() -> None:
    assert {case.kind for case in CASES} == {found.kind for found in list_backends()}


def test_engines_that_are_played_are_labelled_in_the_table() -> None:
    figures = Samples(freed_s=[0.004, 0.006], gaps_s=[0.001]).summary()
    moments = dict.fromkeys(MOMENTS, figures)
    report = {
        "backends": {
            case.kind: {"what": case.what, "simulated": case.simulated, "engine_version": "1.2", **moments}
            for case in CASES
        }
    }
    rows = [*disconnects(report)][2:]
    assert len(rows) == 2 * len(CASES)
    for case in CASES:
        mine = [row for row in rows if row.startswith(f"| `{case.kind}`")]
        assert [("simulated" in row, " 1.2 |" in row) for row in mine] == [(case.simulated, not case.simulated)] * 2
        assert "| 2 | 5.0 ms | 6.0 ms | 6.0 ms | 1.0 ms | 0 |" in mine[0]


@pytest.mark.slow
def test_a_played_engine_is_measured_through_a_gateway_process() -> None:
    case = next(case for case in CASES if case.kind == "sglang")
    result = asyncio.run(measure(case, 3, 0))
    assert [str(bar) for bar in bars_of("sglang", result, 3) if not bar.is_met] == []
    for moment in MOMENTS:
        assert 0 < result[moment]["freed_p50_s"] < 10


def test_the_table_of_memory_has_the_bars_and_the_end() -> None:
    bars = [
        {"name": "resident when idle, MB", "measured": 110.04, "limit": 150.0},
        {"name": "rise after the warm-up, MB", "measured": 0.26, "limit": 2.0},
    ]
    report = {
        "bars": bars,
        "warm_after_requests": 50,
        "num_requests": 200,
        "resident_bytes_by_num_requests": {"100": 140_000_000, "200": 141_000_000},
    }
    table = "\n".join(memory(report))
    assert "| idle | 110.0 MB | 150 MB |" in table
    assert "| rise from request 50 to request 200 | 0.3 MB | 2 MB |" in table
    assert "| at the end | 141.0 MB | |" in table


def test_a_slot_that_is_never_freed_and_a_sample_that_lacks_miss_their_bars() -> None:
    freed = Samples(freed_s=[0.001] * 99, gaps_s=[0.001]).summary()
    stuck = Samples(freed_s=[0.001] * 99, gaps_s=[0.001], num_never_freed=1).summary()
    result = {"after_first_token": freed, "before_first_byte": stuck, "num_in_flight_after": 1.0}
    missed = [bar.name for bar in bars_of("k", result, 100) if not bar.is_met]
    assert missed == ["k: in flight afterwards", "k, after first token: samples", "k, before first byte: never freed"]


def test_the_rise_is_that_of_the_line_and_not_of_its_noise() -> None:
    assert risen([(0, 10), (100, 10), (200, 10)]) == 0
    assert risen([(0, 0), (100, 100), (200, 200)]) == pytest.approx(200)
    assert risen([(0, 5), (100, -5), (200, 5)]) == pytest.approx(0)


def test_no_two_requests_are_alike_and_each_says_what_answer_it_wants() -> None:
    traffic = Traffic(1, ["ebk_12345678901234567890", "ebk_abcdefghijabcdefghij"])
    requests = [traffic.next_request() for _ in range(300)]
    assert len({request.partition(b"prompt")[2] for request, _ in requests}) == 300
    assert sorted(status for _, status in requests) == [200] * 294 + [400] * 3 + [401] * 3
    assert len({traffic.next_address() for _ in range(600)}) == 500


def test_an_answer_is_whole_with_its_last_byte() -> None:
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    for answer in (plain, chunked):
        assert is_whole(answer)
        assert not any(is_whole(answer[:end]) for end in range(len(answer)))
