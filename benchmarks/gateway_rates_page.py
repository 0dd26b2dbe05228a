"""Tables of docs/gateway-figures.md: requests that are not open for long, out of `gateway` and `gateway_sustained`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from report_lines import bar_rows, machine_line, ms

TARGETS = {
    "direct": "no gateway",
    "plain": "gateway, one model and nothing else",
    "full": "gateway, everything on",
    "litellm": "LiteLLM's proxy",
}
LOADS = {
    "not_streamed_64_connections": "not streamed, 64 connections",
    "streamed_64_connections": "streamed, 64 connections",
    "not_streamed_1_connection": "not streamed, 1 connection",
}
ALONE = "not_streamed_1_connection"


def requests(report: dict[str, Any]) -> Iterator[str]:
    """Of gateway.json."""
    yield machine_line(report)
    for load, words in LOADS.items():
        yield ""
        yield from _load_rows(report, load, words)
    yield ""
    yield from _added_rows(report)
    yield ""
    yield from _peer_rows(report)
    yield ""
    yield from bar_rows(report)


def _through(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Those that were measured, by their words; LiteLLM with its version."""
    for name, words in TARGETS.items():
        if isinstance(report[name], dict):
            yield (f"{words} {report['litellm_version']}" if name == "litellm" else words), report[name]


def _load_rows(report: dict[str, Any], load: str, words: str) -> Iterator[str]:
    yield f"| {words} (simulated engine) | req/s | p50 | p99 | errors | its CPU busy | CPU per request | waited |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|"
    for label, result in _through(report):
        figures = result[load]
        yield (
            f"| {label} | {figures['requests_per_s']:,.0f} | {ms(figures['latency_p50_s'])} "
            f"| {ms(figures['latency_p99_s'])} | {figures['num_errors']:g} | {_cpu(figures)} |"
        )


def _cpu(figures: dict[str, Any]) -> str:
    """Three cells: how busy, of a request, and how long it waited for what others had."""
    if "gateway_cpu_ratio" not in figures:
        return "- | - | -"
    rate = figures["requests_per_s"]
    per_request = ms(figures["gateway_cpu_ratio"] / rate if rate else None)
    return f"{figures['gateway_cpu_ratio']:.0%} | {per_request} | {figures['gateway_waited_ratio']:.1%}"


def _added_rows(report: dict[str, Any]) -> Iterator[str]:
    yield "| added at 1 connection | p50 | p99 | resident when idle |"
    yield "|---|---:|---:|---:|"
    for label, result in _through(report):
        if "added" in result:
            added = result["added"]
            yield (
                f"| {label} | {ms(added['latency_p50_s'])} | {ms(added['latency_p99_s'])} "
                f"| {result['idle_resident_bytes'] / 1e6:.1f} MB |"
            )


def _peer_rows(report: dict[str, Any]) -> Iterator[str]:
    peer = report["litellm"]
    if not isinstance(peer, dict):
        yield f"LiteLLM's proxy: {peer}."
        return
    yield (
        f"| LiteLLM's proxy {report['litellm_version']} beside the gateway with everything on "
        "| requests/s of the gateway to its | its p50 to the gateway's | its p99 to the gateway's |"
    )
    yield "|---|---:|---:|---:|"
    for load, words in LOADS.items():
        ratios = peer["full_beside_it"][load]
        shown = [_times(ratios[name]) for name in ("requests_per_s", "latency_p50_s", "latency_p99_s")]
        yield f"| {words} | {' | '.join(shown)} |"


def _times(ratio: float | None) -> str:
    return "no answer in time" if ratio is None else f"{ratio:.3g} times"


def sustained(report: dict[str, Any]) -> Iterator[str]:
    """Of gateway_sustained.json."""
    yield machine_line(report)
    yield ""
    yield "| minute (simulated engine) | due | answered | errors | p50 | p99 | p99.9 | longest | resident |"
    yield "|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for number, minute in enumerate(report["minutes"], 1):
        latencies = [ms(minute.get(f"latency_{name}_s")) for name in ("p50", "p99", "p99.9", "max")]
        yield (
            f"| {number} | {minute['num_offered']:,} | {minute['num_answered']:,} | {minute['num_errors']:,} "
            f"| {' | '.join(latencies)} | {minute['resident_bytes'] / 1e6:.1f} MB |"
        )
    yield ""
    yield from _sustained_words(report)
    yield ""
    yield from bar_rows(report)


def _sustained_words(report: dict[str, Any]) -> Iterator[str]:
    client, cpu_s = report["client"], report["gateway_cpu_us_per_request"] / 1e6
    yield (
        f"{report['num_answered']:,} of {report['num_offered']:,} requests were answered, {report['num_errors']:,} "
        f"failed. Each took {ms(cpu_s)} of the gateway's CPU; the gateway waited "
        f"{report['gateway_waited_ratio']:.1%} of the time for a CPU that others had."
    )
    yield f"The memory of the last minute was at most {report['resident_growth_bytes'] / 1e6:.2f} MB above the first's."
    yield (
        f"The client sent {ms(client['send_lag_p50_s'])} late at p50 and {ms(client['send_lag_p99_s'])} at p99, and "
        f"stood still for {ms(client['longest_stall_s'])} at the longest: that is in the latencies."
    )
