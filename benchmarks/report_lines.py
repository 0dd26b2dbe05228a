"""Lines that pages of figures have in common: the machine, the bars, a duration."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

SHOWN_PACKAGES = ("enginebay", "uvloop", "httptools")


def machine_line(report: dict[str, Any]) -> str:
    """Where, when and beside what else, of a report that begins with `gateway_stage.machine()`."""
    environment = report["environment"]
    packages = ", ".join(f"{name} {environment['packages'][name]}" for name in SHOWN_PACKAGES)
    engine = "The engine is simulated." if report["simulated"] else "The engine is a real one."
    return (
        f"Measured {report['measured_at']} on {environment['cpu']}, {environment['num_cores']} cores, "
        f"{environment['operating_system']}, {environment['python']}, {packages}. "
        f"The load average before was {report['load_average_before']:.2f}. {engine}"
    )


def bar_rows(report: dict[str, Any]) -> Iterator[str]:
    yield "| bar | measured | limit | |"
    yield "|---|---:|---:|---|"
    for bar in report["bars"]:
        limit = f"{bar['kind']} {_number(bar['limit'])}{', stretch' if bar['is_stretch'] else ''}"
        verdict = "met" if bar["is_met"] else "**missed**"
        yield f"| {bar['name']} | {_number(bar['measured'])} | {limit} | {verdict} |"


def ms(duration_s: float | None) -> str:
    return "-" if duration_s is None else f"{duration_s * 1000:.2f} ms"


def _number(value: float | None) -> str:
    if value is None:
        return "nothing"
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"
