"""The tables of requests, streams and ten minutes in docs/gateway-figures.md, out of results that are made up here."""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from bars import Bar, as_json
from gateway_figures_page import SECTIONS, not_measured, with_figures
from gateway_rates_page import LOADS as SHOWN_LOADS
from gateway_rates_page import requests, sustained
from gateway_streams import Run, held_bars, of, steady_bars
from gateway_streams_page import streams
from gateway_sustained import LEAD_S, Minutes
from report_lines import bar_rows, machine_line
from stream_figures import StreamFigures, added

from enginebay.loadtest.records import Record
from gateway import ALONE, LOADS, bars, results_of

MACHINE = {
    "environment": {
        "python": "CPython 3.11",
        "operating_system": "Linux 6",
        "cpu": "A processor",
        "num_cores": 2,
        "packages": {"enginebay": "0.1.0", "uvloop": "0.22", "httptools": "0.7"},
    },
    "measured_at": "2026-01-02T03:04:05Z",
    "load_average_before": 0.25,
    "simulated": True,
}
CLIENT = {"cpu_ratio": 0.4, "longest_stall_s": 0.006, "send_lag_p50_s": 0.0001, "send_lag_p99_s": 0.002}


def rounds_of(rate: float, latency_s: float, *, has_process: bool = True) -> list[dict[str, Any]]:
    figures = {"requests_per_s": rate, "latency_p50_s": latency_s, "latency_p99_s": 2 * latency_s, "num_errors": 0}
    if not has_process:
        return [dict.fromkeys(LOADS, figures)]
    figures |= {"gateway_cpu_ratio": 0.9, "gateway_waited_ratio": 0.01}
    return [{**dict.fromkeys(LOADS, figures), "idle_resident_bytes": 100_000_000}]


def rates_report(*, full_rate: float = 3000, litellm_rate: float | None = 50) -> dict[str, Any]:
    rounds = {
        "direct": rounds_of(30_000, 0.0001, has_process=False),
        "plain": rounds_of(4000, 0.0003),
        "full": rounds_of(full_rate, 0.0005),
    }
    if litellm_rate is not None:
        rounds["litellm"] = rounds_of(litellm_rate, 0.01)
    results = results_of(rounds)
    reached = as_json(bars(results))
    if litellm_rate is None:
        results["litellm"] = "not measured: not installed"
    return {**MACHINE, "litellm_version": "9.8.7", **results, "bars": reached}


def run_of(target: str, ttft_s: float | None, *, num_failed: int = 0) -> Run:
    """Every percentile of the time to the first token is this one."""
    same = {"p50": ttft_s, "p99": ttft_s}
    late = {"p50": 0.001, "p99": 0.002} if target == "direct" else {"p50": 0.0035, "p99": 0.0065}
    figures = StreamFigures(
        num_streams=400, num_failed=num_failed, num_wrong=0, num_chunks_in_window=1000, min_open_streams=300,
        ttft_s=same, ttft_in_tick_s=same, ttft_in_tick_beyond_engine_s=same, chunk_gap_s=late, lateness_s=late,
    )  # fmt: skip
    return Run(target=target, figures=figures, gateway_cpu_s=0.06, gateway_waited_ratio=0.125, client=CLIENT)


def streams_report(*, num_failed: int = 0) -> dict[str, Any]:
    steady = [run_of("direct", 0.002), run_of("gateway", 0.0045, num_failed=num_failed)]
    held = [run_of("direct", None), run_of("gateway", None)]
    cases = [
        {
            "name": name,
            "runs": [run.as_json() for run in runs],
            "added": added(of("direct", runs), of("gateway", runs)),
        }
        for name, runs in (("300 streams at 20 tokens/s", steady), ("1000 streams at 1 token/s", held))
    ]
    reached = steady_bars(300, steady, is_stretch=False) + held_bars(1000, held)
    return {**MACHINE, "cases": cases, "bars": as_json(reached)}


def sustained_report() -> dict[str, Any]:
    minutes = Minutes(120, num_tokens=16)
    for at, resident_bytes in ((0.0, 110_000_000), (60.0, 111_500_000)):
        minutes.sampled(at, resident_bytes)
    for index, at in enumerate((0.5, 61.0)):
        due_at = LEAD_S + at
        minutes.add(
            Record(
                index=index, scheduled_at=due_at, sent_at=due_at, ended_at=due_at, num_planned_prompt_tokens=8,
                max_tokens=16, error_class="Broken",
            )
        )  # fmt: skip
    return {
        **MACHINE,
        "num_offered": 2,
        "num_answered": 0,
        "num_errors": minutes.num_errors,
        "resident_growth_bytes": minutes.resident_growth_bytes,
        "gateway_cpu_us_per_request": 870.0,
        "gateway_waited_ratio": 0.024,
        "client": CLIENT,
        "minutes": minutes.as_json(),
        "bars": as_json([Bar(name="errors", measured=2, limit=0, kind="at most")]),
    }


def page_of(text: str) -> str:
    sections = (
        f"<!-- {name}: written by benchmarks/gateway_figures_page.py -->\n{text}\n<!-- end of {name} -->\n"
        for name in SECTIONS
    )
    return "before\n" + "\n".join(sections) + "after\n"


def test_what_has_a_result_is_written_and_what_has_none_stays_and_is_named(tmp_path: Path) -> None:
    (tmp_path / "gateway.json").write_text(json.dumps(rates_report()))
    (tmp_path / "gateway_streams.json").write_text(json.dumps(streams_report()))
    page = with_figures(page_of("as it was"), tmp_path)
    assert page.count("as it was") == len(SECTIONS) - 2
    assert "\n".join(requests(rates_report())) in page
    assert "\n".join(streams(streams_report())) in page
    assert page.startswith("before\n")
    assert page.endswith("after\n")
    assert with_figures(page, tmp_path) == page
    assert not_measured(tmp_path) == [
        "python benchmarks/gateway_sustained.py",
        "python benchmarks/gateway_disconnect.py",
        "python benchmarks/gateway_memory.py",
    ]


def test_every_load_of_requests_has_a_table_of_all_that_were_measured() -> None:
    text = "\n".join(requests(rates_report()))
    assert set(SHOWN_LOADS) == set(LOADS)
    assert text.count("| no gateway | 30,000 | 0.10 ms | 0.20 ms | 0 | - | - | - |") == len(LOADS)
    assert text.count("| gateway, everything on | 3,000 | 0.50 ms | 1.00 ms | 0 | 90% | 0.30 ms | 1.0% |") == len(LOADS)
    assert text.count("| LiteLLM's proxy 9.8.7 | 50 |") == len(LOADS)
    assert text.count("(simulated engine)") == len(LOADS)


def test_what_is_added_and_how_far_the_peer_is_are_told() -> None:
    rows = [*requests(rates_report())]
    assert "| gateway, everything on | 0.40 ms | 0.80 ms | 100.0 MB |" in rows
    assert f"| {SHOWN_LOADS[ALONE]} | 60 times | 20 times | 20 times |" in rows


def test_a_peer_that_is_absent_or_answers_nothing_is_told_so() -> None:
    absent, silent = rates_report(litellm_rate=None), rates_report(litellm_rate=0)
    assert "LiteLLM's proxy: not measured: not installed." in [*requests(absent)]
    row = f"| {SHOWN_LOADS[ALONE]} | no answer in time | no answer in time | no answer in time |"
    assert row in [*requests(silent)]


def test_a_bar_is_told_as_met_or_missed_and_a_stretch_as_a_stretch() -> None:
    rows = [*requests(rates_report(full_rate=2499.6))]
    assert "| req/s, full, 64 connections | 2,499.6 | at least 2,500 | **missed** |" in rows
    assert "| req/s, full, 64 connections | 2,499.6 | at least 5,000, stretch | **missed** |" in rows
    assert "| added p50, full, 1 connection, ms | 0.4 | at most 0.5 | met |" in rows
    nothing = as_json([Bar(name="b", measured=None, limit=1, kind="at most")])
    assert [*bar_rows({"bars": nothing})][2] == "| b | nothing | at most 1 | **missed** |"


def test_the_machine_its_load_and_the_simulated_engine_are_told() -> None:
    line = machine_line(MACHINE)
    for words in ("2026-01-02T03:04:05Z", "A processor, 2 cores", "uvloop 0.22", "before was 0.25", "is simulated."):
        assert words in line
    assert "is simulated" not in machine_line({**MACHINE, "simulated": False})
    for lines in (requests(rates_report()), streams(streams_report()), sustained(sustained_report())):
        assert next(lines) == line


def test_what_streams_gain_is_told_with_the_cpu_of_a_chunk_and_what_was_dropped() -> None:
    rows = [*streams(streams_report(num_failed=3))]
    assert (
        "| 300 streams at 20 tokens/s | 2.50 ms | 2.50 ms | 2.50 ms | 4.50 ms | 4.50 ms | 60.0 us | 3 of 400 |" in rows
    )
    assert "| 1000 streams at 1 token/s | - | - | 2.50 ms | 4.50 ms | 4.50 ms | 60.0 us | 0 of 400 |" in rows
    assert "| 300 streams: streams without their exact tokens | 3 | at most 0 | **missed** |" in rows


def test_each_run_of_streams_has_a_row_of_as_many_cells_as_the_head() -> None:
    rows = [row for row in streams(streams_report()) if ", no gateway |" in row or ", through the gateway |" in row]
    [head] = [row for row in streams(streams_report()) if row.startswith("| each run")]
    assert len(rows) == 4
    assert {row.count("|") for row in rows} == {head.count("|")}
    assert rows[0].endswith("| 300 | 0 | - | 40% | 6.00 ms |")
    assert rows[1].endswith("| 300 | 0 | 12.5% | 40% | 6.00 ms |")


def test_ten_minutes_are_told_minute_by_minute_with_what_failed() -> None:
    rows = [*sustained(sustained_report())]
    assert "| 1 | 1 | 0 | 1 | - | - | - | - | 110.0 MB |" in rows
    assert "| 2 | 1 | 0 | 1 | - | - | - | - | 111.5 MB |" in rows
    text = "\n".join(rows)
    assert "0 of 2 requests were answered, 2 failed. Each took 0.87 ms" in text
    assert "at most 1.50 MB above" in text
    assert "sent 0.10 ms late at p50 and 2.00 ms at p99" in text
    assert "| errors | 2 | at most 0 | **missed** |" in rows
