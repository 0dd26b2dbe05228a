"""Tables of docs/gateway-figures.md: many streams at a time, out of `gateway_streams`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from report_lines import bar_rows, machine_line, ms


def streams(report: dict[str, Any]) -> Iterator[str]:
    """Of gateway_streams.json."""
    yield machine_line(report)
    yield ""
    yield from _added_rows(report)
    yield ""
    yield from _run_rows(report)
    yield ""
    yield from bar_rows(report)


def _added_rows(report: dict[str, Any]) -> Iterator[str]:
    yield (
        "| added by the gateway with everything on (simulated engine) | TTFT p50, a step of its own "
        "| TTFT p50, last in a tick | lateness p50 | lateness p99 | gap p99 | CPU per chunk | dropped |"
    )
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for case in report["cases"]:
        added = case["added"]
        shown = [
            ms(added["ttft_s"]["p50"]),
            ms(added["ttft_in_tick_beyond_engine_s"]["p50"]),
            ms(added["lateness_s"]["p50"]),
            ms(added["lateness_s"]["p99"]),
            ms(added["chunk_gap_s"]["p99"]),
            _cpu_per_chunk(case["runs"]),
            _dropped(case["runs"]),
        ]
        yield f"| {case['name']} | {' | '.join(shown)} |"


def _cpu_per_chunk(runs: list[dict[str, Any]]) -> str:
    """The most of all runs."""
    found = [run["gateway_cpu_us_per_chunk"] for run in runs if run["target"] == "gateway"]
    known = [cpu_us for cpu_us in found if cpu_us is not None]
    return f"{max(known):.1f} us" if known else "-"


def _dropped(runs: list[dict[str, Any]]) -> str:
    through = [run for run in runs if run["target"] == "gateway"]
    num_dropped = sum(run["num_failed"] + run["num_wrong"] for run in through)
    return f"{num_dropped:,} of {sum(run['num_streams'] for run in through):,}"


def _run_rows(report: dict[str, Any]) -> Iterator[str]:
    yield (
        "| each run, in its order | TTFT p50, own step | p99 | TTFT p50, last in a tick | p99 | lateness p50 | p99 "
        "| gap p99 | open at least | dropped | waited | client's CPU | client's longest stall |"
    )
    yield f"|---|{'---:|' * 12}"
    for case in report["cases"]:
        for run in case["runs"]:
            yield f"| {case['name']}, {_target(run)} | {' | '.join(_run_cells(run))} |"


def _target(run: dict[str, Any]) -> str:
    return "through the gateway" if run["target"] == "gateway" else "no gateway"


def _run_cells(run: dict[str, Any]) -> Iterator[str]:
    for name in ("ttft_s", "ttft_in_tick_beyond_engine_s", "lateness_s"):
        yield ms(run[name]["p50"])
        yield ms(run[name]["p99"])
    yield ms(run["chunk_gap_s"]["p99"])
    yield f"{run['min_open_streams']:,}"
    yield f"{run['num_failed'] + run['num_wrong']:,}"
    yield f"{run['gateway_waited_ratio']:.1%}" if run["target"] == "gateway" else "-"
    yield f"{run['client']['cpu_ratio']:.0%}"
    yield ms(run["client"]["longest_stall_s"])
